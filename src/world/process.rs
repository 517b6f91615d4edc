//! What the system tells of a running process: processor time and memory, from `/proc`. Linux only.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

/// Processor time a process has used so far, over all its threads that still run.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0_u64;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while it is looked at.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let ran = text.split_whitespace().next().unwrap_or("0");
        nanoseconds += ran.parse::<u64>().map_err(|_| unreadable())?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib
        .and_then(|kib| kib.parse().ok())
        .ok_or_else(unreadable)?;
    Ok(kib * 1024)
}

fn unreadable() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "the system does not tell what this process uses",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_work() {
        let own = std::process::id();
        let before = cpu(own).unwrap();
        let mut sum = 0_u64;
        while cpu(own).unwrap() <= before {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(resident(own).unwrap() > 100_000);
    }

    #[test]
    fn who_does_not_run_uses_nothing_that_could_be_told() {
        assert!(cpu(u32::MAX).is_err() && resident(u32::MAX).is_err());
    }
}
