//! Writes and syncs without end, and says after each step what is safe; the crash test kills it.

#![allow(clippy::print_stdout, reason = "the test reads what was acknowledged from standard output")]

use std::io::Write as _;

use isle::{Error, Replica, params};

/// Rows of one transaction: all of them or none must be there after a crash.
const ROWS: i64 = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().unwrap_or_default();
    let (database, home, first) = (next(), next(), next());
    let replica = Replica::builder(database).home(home).open()?;
    let mut out = std::io::stdout();
    for batch in first.parse::<i64>().unwrap_or(0).. {
        replica.write(|tx| {
            for n in 0..ROWS {
                tx.execute("INSERT INTO entries VALUES(?1, ?2, ?3)", params![batch * ROWS + n, batch, "some text"])?;
            }
            tx.execute(
                "UPDATE entries SET body = 'changed' WHERE id = ?1",
                params![(batch * 7919) % (batch * ROWS + 1)],
            )?;
            tx.execute("DELETE FROM doomed WHERE id = ?1", params![batch])?;
            Ok(())
        })?;
        let _ = writeln!(out, "wrote {batch}");
        if batch % 3 == 0 {
            replica.sync().await?;
            let _ = writeln!(out, "synced {batch}");
        }
        let _ = out.flush();
    }
    Ok(())
}
