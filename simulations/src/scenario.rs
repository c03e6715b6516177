//! What happens in a simulation, step by step: made from a seed, or read from a file.
//!
//! Each step has its own seed, so that one can be taken out and the others stay what they are: a failing scenario is shrunk so.

use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// A scenario, as it stands in `simulations/traces/*.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it showed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The seed of everything that no step has a seed for.
    pub seed: u64,
    /// The schema: `kinds`, or that of one of the reference apps.
    pub schema: String,
    /// How many devices there are at first.
    pub devices: u32,
    /// Most writes are of one of so many tables, which the seed chooses; of any for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub focus: u32,
    /// The devices whose files cr-sqlite keeps, as bits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cr_sqlite: u32,
    /// What happens, in the order of time.
    pub steps: Vec<Step>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When: milliseconds since the beginning.
    pub at_ms: u64,
    /// To which device.
    pub device: u32,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// How statements reach a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Through isle.
    Isle,
    /// Through a plain connection, a transaction for each statement.
    Autocommit,
    /// Through a plain connection, in one transaction.
    Transaction,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Some transactions.
    Write {
        /// How.
        way: Way,
        /// What is written.
        seed: u64,
    },
    /// One transaction of many rows.
    Bulk {
        /// How many.
        rows: u32,
        /// Which.
        seed: u64,
        /// Long texts: what they make does not fit one block.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        long: bool,
    },
    /// A sync with the bucket.
    Sync,
    /// A session with another device.
    Talk {
        /// With whom.
        with: u32,
        /// How long its packets take, and which are lost.
        seed: u64,
        /// After how many bytes the connection breaks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut_after: Option<u64>,
        /// How long it stays, to push what is written meanwhile.
        stay_ms: u64,
    },
    /// Nothing goes from this device to another, and nothing comes back either unless it is `one_way`.
    Part {
        /// From whom.
        with: u32,
        /// Only what this device sends is lost.
        one_way: bool,
        /// For how long.
        for_ms: u64,
    },
    /// The bucket does not do what it should, for this device.
    Bucket {
        /// What it does.
        fault: BucketFault,
        /// In how many of a thousand calls.
        permille: u32,
        /// For how long.
        for_ms: u64,
    },
    /// Somebody copies the bucket.
    CopyBucket,
    /// Somebody puts the copy of the bucket back.
    RollBucketBack,
    /// The program dies.
    Crash {
        /// So does the power.
        power: bool,
        /// In the middle of the disk's operation after so many others; at once without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// How long it stays off.
        down_ms: u64,
    },
    /// The disk is full.
    Full {
        /// For how long.
        for_ms: u64,
    },
    /// Reads and writes of the disk fail.
    Failing {
        /// In how many of a thousand cases.
        permille: u32,
        /// For how long.
        for_ms: u64,
    },
    /// What is read from the disk is wrong in places. Nothing that this device says afterwards can be relied upon, and the next quiet point finds it gone;
    /// but it may not harm others.
    Flipping {
        /// In how many of a thousand reads.
        permille: u32,
    },
    /// The device is gone for good.
    Lose,
    /// Somebody sets the clock.
    Jump {
        /// By how much.
        ms: i64,
    },
    /// Somebody copies the database to a new device.
    CopyFile,
    /// A copy of the database is kept.
    BackUp,
    /// The copy takes the database's place.
    Restore {
        /// As a file that is put there, not by isle.
        by_hand: bool,
    },
    /// Another device is declared gone.
    Retire {
        /// Which.
        whom: u32,
    },
    /// The schema changes.
    Migrate {
        /// Which of the changes.
        change: u32,
    },
    /// Another version of the app runs from now on.
    App {
        /// Its number.
        version: u32,
    },
    /// Rows are changed and what isle's triggers noted of that is thrown away: isle cannot make that good, and the checkers have to notice. No seed
    /// makes it.
    Tamper,
    /// Somebody makes, changes, moves or removes files in the folder of the library, and isle looks.
    Files {
        /// Which, and what.
        seed: u64,
    },
    /// Contents of files go somewhere.
    Contents {
        /// Where.
        way: Contents,
        /// Which, where it is of one file.
        seed: u64,
    },
    /// Old history goes.
    Compact {
        /// What is younger stays.
        keep_ms: u64,
    },
    /// Everything is mended, everybody hears of everything, and all promises are checked.
    Quiet,
}

impl What {
    /// Whether it makes something go wrong for a while.
    fn is_fault(&self) -> bool {
        use What::{Bucket, Crash, Failing, Flipping, Full, Jump, Part};
        matches!(
            self,
            Bucket { .. } | Crash { .. } | Failing { .. } | Flipping { .. } | Full { .. } | Jump { .. } | Part { .. }
        )
    }
}

/// Where contents of files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// Into the bucket.
    Push,
    /// From the bucket to this device.
    Pull,
    /// From this device, if they are in the bucket.
    Evict,
    /// Into the trash, on all devices.
    Trash,
    /// Away for good, if nothing needs them.
    Prune,
}

/// What a bucket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BucketFault {
    /// It cannot be reached.
    Offline,
    /// Calls fail and have no effect.
    Lost,
    /// Calls have their effect and fail.
    Unheard,
    /// Puts leave a part, and fail.
    Torn,
    /// 503.
    Throttled,
    /// Reads end early.
    Cut,
    /// A bit of what is read is another one.
    Flipped,
    /// Reads give what was there before.
    Old,
    /// Listings lack the newest.
    Late,
    /// Calls take long.
    Slow,
}

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Devices write offline and sync.
    Calm,
    /// Everything goes wrong now and then.
    Default,
    /// Everything goes wrong.
    Chaos,
}

impl Profile {
    /// By its name.
    pub fn parse(name: &str) -> Option<Profile> {
        Some(match name {
            "calm" => Profile::Calm,
            "default" => Profile::Default,
            "chaos" => Profile::Chaos,
            _ => return None,
        })
    }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// More rows than that in one step take more time and memory than anybody waits for.
const BULK_ROWS_MAX: u32 = 10_000;
/// Ten years: no step is later.
const AT_MS_MAX: u64 = 10 * 365 * 24 * HOUR;

impl Scenario {
    /// What of a scenario that somebody wrote cannot be run.
    pub fn fault(&self) -> Option<String> {
        let schemas = crate::schemas::names();
        if !schemas.contains(&self.schema.as_str()) {
            return Some(format!("there is no schema {:?}; there are {}", self.schema, schemas.join(", ")));
        }
        if !(2..=16).contains(&self.devices) {
            return Some(format!("{} devices; there can be 2 to 16", self.devices));
        }
        if self.steps.is_empty() {
            return Some("it has no steps".to_owned());
        }
        let late = |step: &&Step| step.at_ms > AT_MS_MAX || step.device >= 16;
        if let Some(step) = self.steps.iter().find(late) {
            return Some(format!(
                "a step at {} ms of device {}; no later than in ten years, of device 0 to 15",
                step.at_ms, step.device
            ));
        }
        self.steps.iter().find_map(|step| match step.what {
            What::Bulk { rows, .. } if rows > BULK_ROWS_MAX => {
                Some(format!("{rows} rows in one step; at most {BULK_ROWS_MAX}"))
            }
            _ => None,
        })
    }

    /// The same fleet with files that cr-sqlite keeps, beside native ones if `mixed`; its tables have keys that cr-sqlite takes.
    #[must_use]
    pub fn with_cr_sqlite(mut self, mixed: bool) -> Scenario {
        self.cr_sqlite = match mixed {
            // The first device, which makes the tables, is one of them in every second fleet.
            true if self.seed.is_multiple_of(2) => 0x5555_5555,
            true => 0xaaaa_aaaa,
            false => u32::MAX,
        };
        if self.schema == "kinds" {
            self.schema = "keyed".to_owned();
        }
        self
    }

    /// Whether cr-sqlite keeps the file of a device.
    pub(crate) fn is_cr_sqlite(&self, n: usize) -> bool {
        self.cr_sqlite >> (n % 32) & 1 == 1
    }

    /// The scenario of a seed.
    pub fn generate(seed: u64, profile: Profile, devices: Option<u32>) -> Scenario {
        let mut rng = Rng(seed ^ 0x151e);
        let devices = devices.unwrap_or_else(|| rng.between(2, 5) as u32).max(2);
        let apps = ["qlippy", "wmd", "codedb", "collection", "massugc"];
        let schema = if rng.chance(60) { "kinds" } else { apps[rng.below(5) as usize] };
        let phases = rng.between(1, 2);
        let focus = rng.below(4) as u32;
        let mut steps = Vec::new();
        let mut at_ms = 1_000;
        // Of a scenario some kinds of things happen and others do not: so each meets each other in some.
        let mut kinds = Kinds::draw(&mut rng, profile, schema);
        for _ in 0..phases {
            for _ in 0..rng.between(10, 40) {
                at_ms += pause(&mut rng);
                let device = rng.below(u64::from(devices)) as u32;
                let what = kinds.step(&mut rng, devices, device);
                let follows = what.is_fault() && rng.chance(80);
                steps.push(Step { at_ms, device, what });
                // Who has a fault meets it soon.
                for _ in 0..if follows { rng.between(1, 4) } else { 0 } {
                    at_ms += rng.below(400);
                    let kind = [WRITES, SYNC, SYNC, TALK][rng.below(4) as usize];
                    let other = (device + 1 + rng.below(u64::from(devices) - 1) as u32) % devices;
                    steps.push(Step { at_ms, device, what: what_of(kind, &mut rng, other) });
                }
            }
            at_ms += HOUR;
            steps.push(Step { at_ms, device: 0, what: What::Quiet });
            at_ms += HOUR;
            kinds = Kinds::draw(&mut rng, profile, schema);
        }
        if has_files(seed) {
            add_files(&mut steps, seed, devices);
        }
        Scenario { note: String::new(), seed, schema: schema.to_owned(), devices, focus, cr_sqlite: 0, steps }
    }
}

/// Every fourth fleet has a library of files.
fn has_files(seed: u64) -> bool {
    matches!(seed % 8, 1 | 4)
}

/// Puts what happens to files between the other steps, which stay what they are.
fn add_files(steps: &mut Vec<Step>, seed: u64, devices: u32) {
    let mut rng = Rng(seed ^ 0xf11e);
    let mut all = Vec::with_capacity(2 * steps.len());
    for mut step in std::mem::take(steps) {
        if let What::Bucket { fault: fault @ BucketFault::Lost, .. } = &mut step.what
            && rng.chance(50)
        {
            *fault = BucketFault::Torn;
        }
        let at_ms = step.at_ms;
        // After a quiet point all is well for an hour.
        let count = if step.what == What::Quiet { 0 } else { rng.below(3) };
        all.push(step);
        for _ in 0..count {
            let device = rng.below(u64::from(devices)) as u32;
            let what = match rng.below(100) {
                0..=54 => What::Files { seed: rng.next() },
                drawn => {
                    let way = match drawn {
                        55..=66 => Contents::Push,
                        67..=76 => Contents::Pull,
                        77..=86 => Contents::Evict,
                        87..=89 => Contents::Trash,
                        _ => Contents::Prune,
                    };
                    What::Contents { way, seed: rng.next() }
                }
            };
            all.push(Step { at_ms, device, what });
        }
    }
    *steps = all;
}

/// Most steps come close to each other, so that they meet; some after days.
fn pause(rng: &mut Rng) -> u64 {
    match rng.below(100) {
        // At the same time, by clocks that agree: stamps tie.
        0..=9 => 0,
        10..=29 => rng.below(50),
        30..=59 => rng.below(3_000),
        60..=84 => rng.below(5 * MINUTE),
        85..=96 => rng.below(8 * HOUR),
        _ => rng.below(72 * HOUR),
    }
}

/// Which kinds of steps there are, and how often.
struct Kinds(Vec<(u64, u32)>);

const WRITES: u32 = 0;
const BULK: u32 = 1;
const SYNC: u32 = 2;
const TALK: u32 = 3;
const PART: u32 = 4;
const BUCKET: u32 = 5;
const ROLL_BACK: u32 = 6;
const CRASH: u32 = 7;
const DISK: u32 = 8;
const JUMP: u32 = 9;
const COPY: u32 = 10;
const RESTORE: u32 = 11;
const RETIRE: u32 = 12;
const MIGRATE: u32 = 13;
const COMPACT: u32 = 14;
const LOSE: u32 = 15;

impl Kinds {
    fn draw(rng: &mut Rng, profile: Profile, schema: &str) -> Kinds {
        let mut kinds = vec![(40, WRITES), (1, BULK), (25, SYNC), (12, TALK)];
        let often = match profile {
            Profile::Calm => 0,
            Profile::Default => 35,
            Profile::Chaos => 75,
        };
        let faults = [
            (6, PART),
            (10, BUCKET),
            (3, ROLL_BACK),
            (10, CRASH),
            (5, DISK),
            (5, JUMP),
            (3, COPY),
            (8, RESTORE),
            (2, RETIRE),
            (6, MIGRATE),
            (6, COMPACT),
            (1, LOSE),
        ];
        for (weight, kind) in faults {
            let fits = kind != MIGRATE || schema == "kinds";
            if fits && rng.chance(often) {
                kinds.push((weight, kind));
            }
        }
        Kinds(kinds)
    }

    fn step(&self, rng: &mut Rng, devices: u32, device: u32) -> What {
        let all: u64 = self.0.iter().map(|(weight, _)| weight).sum();
        let mut drawn = rng.below(all);
        let mut kind = WRITES;
        for (weight, of) in &self.0 {
            kind = *of;
            if drawn < *weight {
                break;
            }
            drawn -= weight;
        }
        let other = (device + 1 + rng.below(u64::from(devices) - 1) as u32) % devices;
        what_of(kind, rng, other)
    }
}

fn what_of(kind: u32, rng: &mut Rng, other: u32) -> What {
    match kind {
        // So many long ones fill more than one block.
        BULK if rng.chance(15) => What::Bulk { rows: 120, seed: rng.next(), long: true },
        BULK => What::Bulk { rows: rng.between(50, 400) as u32, seed: rng.next(), long: false },
        SYNC => What::Sync,
        TALK => What::Talk {
            with: other,
            seed: rng.next(),
            cut_after: rng.chance(25).then(|| rng.below(4_000)),
            stay_ms: if rng.chance(50) { 0 } else { rng.below(5 * MINUTE) },
        },
        PART => What::Part { with: other, one_way: rng.chance(30), for_ms: rng.between(1_000, 2 * HOUR) },
        BUCKET => {
            use BucketFault::{Cut, Flipped, Late, Lost, Offline, Old, Slow, Throttled, Unheard};
            let fault = *rng.pick(&[Offline, Lost, Unheard, Throttled, Cut, Flipped, Old, Late, Slow]);
            What::Bucket { fault, permille: rng.between(50, 700) as u32, for_ms: rng.between(1_000, 2 * HOUR) }
        }
        ROLL_BACK if rng.chance(45) => What::CopyBucket,
        ROLL_BACK => What::RollBucketBack,
        CRASH => What::Crash {
            power: rng.chance(50),
            after: rng.chance(80).then(|| rng.below(60)),
            down_ms: rng.between(1_000, HOUR),
        },
        DISK if rng.chance(50) => What::Full { for_ms: rng.between(1_000, HOUR) },
        DISK => What::Failing { permille: rng.between(5, 100) as u32, for_ms: rng.between(1_000, HOUR) },
        JUMP => {
            let far = [2_000, 4 * MINUTE, 20 * MINUTE, 5 * HOUR, 30 * HOUR][rng.below(5) as usize];
            let ms = rng.below(far) as i64;
            What::Jump { ms: if rng.chance(50) { -ms } else { ms } }
        }
        COPY => What::CopyFile,
        RESTORE if rng.chance(30) => What::BackUp,
        RESTORE => What::Restore { by_hand: rng.chance(50) },
        RETIRE => What::Retire { whom: other },
        MIGRATE if rng.chance(25) => What::App { version: rng.between(1, 2) as u32 },
        MIGRATE => What::Migrate { change: rng.below(CHANGES) as u32 },
        LOSE if rng.chance(50) => What::Lose,
        LOSE => What::Flipping { permille: rng.between(1, 30) as u32 },
        COMPACT => What::Compact { keep_ms: if rng.chance(50) { 0 } else { rng.below(48 * HOUR) } },
        _ => {
            let way = *rng.pick(&[Way::Isle, Way::Isle, Way::Autocommit, Way::Transaction]);
            What::Write { way, seed: rng.next() }
        }
    }
}

/// How many changes of the schema `kinds` there are.
const CHANGES: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_its_seed_and_its_file() {
        for seed in 0..50 {
            let scenario = Scenario::generate(seed, Profile::Chaos, None);
            assert_eq!(scenario, Scenario::generate(seed, Profile::Chaos, None));
            let text = serde_json::to_string(&scenario).unwrap();
            assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
            assert!(scenario.steps.is_sorted_by_key(|step| step.at_ms));
        }
    }
}
