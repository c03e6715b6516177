//! Running a scenario.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Once;

use crate::scenario::Scenario;
use crate::trace::{Outcome, Violation};
use crate::world::World;

thread_local! {
    /// What the last panic on this thread said, while a simulation runs on it.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Panics of simulations are told in their outcome and not on the terminal.
fn catch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let simulated = PANIC.with_borrow_mut(|panic| match panic {
                Some(text) => {
                    *text = Some(info.to_string());
                    true
                }
                None => false,
            });
            if !simulated {
                before(info);
            }
        }));
    });
}

/// Runs a scenario to its end, or to the first thing that should not have happened.
pub fn run(scenario: &Scenario) -> Outcome {
    run_in(scenario, None)
}

/// The same with the devices' files in a folder, which is there, and where they stay.
pub fn run_in(scenario: &Scenario, folder: Option<&Path>) -> Outcome {
    catch_panics();
    PANIC.with_borrow_mut(|panic| *panic = Some(None));
    let mut world = None;
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| in_world(scenario, folder, &mut world)));
    let panic = PANIC.take().flatten();
    let at_ms = world.as_ref().and_then(|world| world.trace.events.last()).map_or(0, |event| event.at_ms);
    let violation = match result {
        Ok(result) => result.err(),
        Err(_) => Some(Violation { promise: "panic", text: panic.unwrap_or_default(), at_ms }),
    };
    let Some(world) = world else {
        let (events, hash, coverage) = Default::default();
        return Outcome { violation, events, hash, coverage, device_ms: 0 };
    };
    let World { trace, coverage, device_ms, .. } = world;
    Outcome { violation, hash: trace.hash(), events: trace.events, coverage, device_ms }
}

/// What folders in memory are called, with the process's number behind it.
const PREFIX: &str = "isle-sim-";

/// Removes what simulations have left there that were stopped.
fn clear(memory: &Path) {
    static CLEAR: Once = Once::new();
    CLEAR.call_once(|| {
        let of_the_dead = |name: &str| {
            let id = name.strip_prefix(PREFIX)?.split('-').next()?;
            (id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()).then_some(())
        };
        for entry in std::fs::read_dir(memory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(of_the_dead).is_some() {
                // It is room in memory and nothing else.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    });
}

fn in_world(scenario: &Scenario, folder: Option<&Path>, world: &mut Option<World>) -> Result<(), Violation> {
    let setup = |error: std::io::Error| Violation { promise: "setup", text: error.to_string(), at_ms: 0 };
    let memory = Path::new("/dev/shm");
    let root = match folder {
        // An empty one below it, removed with what is in it only if nobody asked for the files.
        Some(folder) => std::fs::create_dir_all(folder)
            .and_then(|()| tempfile::Builder::new().prefix("fleet-").disable_cleanup(true).tempdir_in(folder)),
        None if memory.is_dir() => {
            clear(memory);
            tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(memory)
        }
        None => tempfile::tempdir(),
    };
    let root = root.map_err(setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let result = runtime.map_err(setup)?.block_on(async {
        let path = root.path().canonicalize().map_err(setup)?;
        *world = Some(World::new(scenario, path).await?);
        match world {
            Some(world) => world.run().await,
            None => Ok(()),
        }
    });
    crate::disk::set_sql_time(None);
    if let Some(world) = world {
        world.devices.clear();
    }
    result
}
