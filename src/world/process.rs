//! What the system tells of a running process: processor time, and memory from `/proc`. Linux only.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

/// Processor time a process has used so far, over all its threads, also those that have ended.
pub fn cpu(pid: u32) -> Result<Duration> {
    let pid = i32::try_from(pid).map_err(|_| unreadable())?;
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid))?;
    Ok(clock.now()?.into())
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
    fn what_a_thread_used_that_has_ended_still_counts() {
        let own = std::process::id();
        let before = cpu(own).unwrap();
        let used = std::thread::spawn(move || {
            let mut sum = 0_u64;
            let enough = Duration::from_millis(200);
            while cpu(own).unwrap() < before + enough {
                sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            }
        });
        used.join().unwrap();
        let left = cpu(own).unwrap().saturating_sub(before);
        assert!(left > Duration::from_millis(150), "{left:?}");
    }

    #[test]
    fn who_does_not_run_uses_nothing_that_could_be_told() {
        assert!(cpu(u32::MAX).is_err() && resident(u32::MAX).is_err());
    }
}
