//! The operators' password: its file, and its verification, which costs guessers more than us.
//!
//! Invariants: the password is never stored, only its argon2id hash in an owner-only file; every try takes one verification whatever
//! was typed; at most two of them run at a time, off the threads that serve; an address that guessed wrong has to wait.

use std::collections::HashMap;
use std::io::{BufRead as _, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{
    self, PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString,
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use tokio::sync::Semaphore;

use crate::model::Timestamp;
use crate::secret::{
    ReadSecretError, Secret, random_bytes, random_token, read_secret_file, sha256,
};

/// Fewest characters of a password. It guards every tenant, and is typed rarely.
pub const SHORTEST: usize = 12;

/// Most bytes of a password: hashing more would only cost.
const LONGEST: usize = 512;

/// Verifications at a time: each takes 19 MiB and a core for some ten milliseconds.
const AT_ONCE: usize = 2;

/// How long a try waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Wrong passwords that cost an address nothing but the try: people mistype.
const FREE: u32 = 3;

/// The longest wait after a wrong password.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// An address that was quiet for so long begins anew.
const FORGIVEN: Duration = Duration::from_hours(1);

/// Most addresses remembered; beyond that all others are counted as one.
const MOST_ADDRESSES: usize = 10_000;

/// Why there is no password to verify against, or none was made.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file.
    #[error("the operators' password cannot be read")]
    Read(#[from] ReadSecretError),
    /// There is no file.
    #[error("{0} is not there; make it with: presence-cloud operators password")]
    Missing(String),
    /// What stands in it.
    #[error("{0} does not hold a password's hash; make it with: presence-cloud operators password")]
    NoHash(String),
    /// Too short or too long.
    #[error("the password must have at least {SHORTEST} characters and at most {LONGEST} bytes")]
    Length,
    /// There is one.
    #[error("{0} is there already; --replace makes a new password and ends all sessions")]
    Exists(String),
    /// Hashing.
    #[error("the password could not be hashed: {0}")]
    Hash(password_hash::Error),
    /// Writing.
    #[error("cannot write {0}")]
    Write(String, #[source] std::io::Error),
}

/// The hash to store: argon2id with a salt of its own.
pub fn hash(password: &Secret) -> Result<String, PasswordError> {
    let text = password.expose();
    if text.chars().count() < SHORTEST || text.len() > LONGEST {
        return Err(PasswordError::Length);
    }
    let salt = SaltString::encode_b64(&random_bytes::<16>()).map_err(PasswordError::Hash)?;
    Argon2::default()
        .hash_password(text.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(PasswordError::Hash)
}

/// Makes the file. An existing one is replaced only if that is wished, and then at once and as a whole.
pub fn create(path: &Path, password: &Secret, replace: bool) -> Result<(), PasswordError> {
    let hash = hash(password)?;
    let name = || path.display().to_string();
    if path.exists() && !replace {
        return Err(PasswordError::Exists(name()));
    }
    let written = |e| PasswordError::Write(name(), e);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", &random_token()[..8]));
    let aside = PathBuf::from(aside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let done = options.open(&aside).and_then(|mut file| {
        file.write_all(format!("{hash}\n").as_bytes())?;
        file.sync_all()?;
        if replace {
            std::fs::rename(&aside, path)
        } else {
            // A link is refused where something has appeared meanwhile; a rename would replace it.
            std::fs::hard_link(&aside, path).and_then(|()| std::fs::remove_file(&aside))
        }
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    done.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => PasswordError::Exists(name()),
        _ => written(e),
    })
}

/// Reads a password: from a program one line, from somebody who types it twice and without showing it. `None`: they differ, or it
/// was given up.
pub fn ask() -> std::io::Result<Option<Secret>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        let most = u64::try_from(LONGEST).unwrap_or(u64::MAX) + 2;
        stdin.lock().take(most).read_line(&mut line)?;
        let typed = line.trim_end_matches(['\r', '\n']);
        return Ok(Some(Secret::new(typed)));
    }
    let (first, second) = (hidden("Password: ")?, hidden("Again: ")?);
    Ok(match (first, second) {
        (Some(first), Some(second)) if first.expose() == second.expose() => Some(first),
        _ => None,
    })
}

/// One line that is not shown while it is typed. `None`: given up by Ctrl-C or Escape.
fn hidden(prompt: &str) -> std::io::Result<Option<Secret>> {
    let mut out = std::io::stderr();
    write!(out, "{prompt}")?;
    out.flush()?;
    terminal::enable_raw_mode()?;
    let typed = typed();
    terminal::disable_raw_mode()?;
    writeln!(out)?;
    typed
}

fn typed() -> std::io::Result<Option<Secret>> {
    let mut text = String::new();
    loop {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(Some(Secret::new(text))),
            KeyCode::Esc => return Ok(None),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Ok(None);
            }
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Char(c) if text.len() < LONGEST => text.push(c),
            _ => {}
        }
    }
}

/// The stored hash, as the file stands now.
pub struct Stored(Secret);

impl Stored {
    /// Reads it and looks whether it is a hash.
    pub fn read(path: &Path) -> Result<Self, PasswordError> {
        let text = read_secret_file(path).map_err(|e| match e {
            ReadSecretError::Io(name, why) if why.kind() == ErrorKind::NotFound => {
                PasswordError::Missing(name)
            }
            other => other.into(),
        })?;
        match PasswordHash::new(text.expose()) {
            Ok(hash) if hash.algorithm.as_str().starts_with("argon2") && hash.hash.is_some() => {}
            _ => return Err(PasswordError::NoHash(path.display().to_string())),
        }
        Ok(Self(text))
    }

    /// What sessions are tied to, so that another password ends them.
    pub fn proof(&self) -> [u8; 32] {
        sha256(self.0.expose().as_bytes())
    }

    fn verify(&self, typed: &Secret) -> bool {
        let fits = typed.expose().len() <= LONGEST;
        let typed = if fits { typed.expose() } else { "" };
        PasswordHash::new(self.0.expose()).is_ok_and(|hash| {
            Argon2::default()
                .verify_password(typed.as_bytes(), &hash)
                .is_ok()
        })
    }
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// That is the password.
    Right,
    /// It is not.
    Wrong,
    /// The address guessed wrong and has to wait so long. Nothing was verified.
    Wait(Duration),
    /// Too many tries are under way. Nothing was verified.
    Busy,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    wrong: u32,
    last: Timestamp,
}

impl Tries {
    /// Until when the next try has to wait.
    fn free_at(self) -> Timestamp {
        let doublings = match self.wrong.checked_sub(FREE) {
            None => return self.last,
            Some(beyond) => beyond.min(16),
        };
        self.last
            .plus(Duration::from_secs(1 << doublings).min(LONGEST_WAIT))
    }
}

/// Who tried how often, and who tries now.
pub struct Gate {
    known: Mutex<HashMap<IpAddr, Tries>>,
    turns: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Gate {
    /// Counts a try before it is made, so that many at once are no way around the wait. The wait if there is one.
    fn enter(&self, address: IpAddr, now: Timestamp) -> Result<IpAddr, Duration> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = address;
        if !known.contains_key(&address) && known.len() >= MOST_ADDRESSES {
            known.retain(|_, tries| tries.last.until(now) < FORGIVEN);
            if known.len() >= MOST_ADDRESSES {
                counted = IpAddr::from([0, 0, 0, 0]);
            }
        }
        let nothing = Tries {
            wrong: 0,
            last: now,
        };
        let tries = known.entry(counted).or_insert(nothing);
        if tries.last.until(now) >= FORGIVEN {
            *tries = nothing;
        }
        let free_at = tries.free_at();
        if tries.wrong >= FREE && now < free_at {
            return Err(now.until(free_at));
        }
        tries.wrong = tries.wrong.saturating_add(1);
        tries.last = now;
        Ok(counted)
    }

    /// Counts something wrong that cost nothing to look at: nobody guesses a random token, and who holds a right one is let in at
    /// once. The wait of an address that goes on.
    pub fn wrong(&self, address: IpAddr, now: Timestamp) -> Option<Duration> {
        self.enter(address, now).err()
    }

    /// How long an address has to wait just now; nothing is counted.
    pub fn waits(&self, address: IpAddr, now: Timestamp) -> Option<Duration> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = known.get(&address)?;
        let free_at = tries.free_at();
        (tries.wrong >= FREE && now < free_at && tries.last.until(now) < FORGIVEN)
            .then(|| now.until(free_at))
    }

    /// Forgets what an address has tried: somebody there has shown who he is.
    pub fn forgive(&self, counted: IpAddr) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&counted);
    }

    /// One try of somebody at this address.
    pub async fn attempt(
        &self,
        address: IpAddr,
        stored: Stored,
        typed: Secret,
        now: Timestamp,
    ) -> Verdict {
        let counted = match self.enter(address, now) {
            Ok(counted) => counted,
            Err(wait) => return Verdict::Wait(wait),
        };
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.turns.acquire()).await else {
            return Verdict::Busy;
        };
        let verified = tokio::task::spawn_blocking(move || stored.verify(&typed)).await;
        if verified.unwrap_or(false) {
            self.forgive(counted);
            return Verdict::Right;
        }
        Verdict::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "correct horse battery";

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.password");
        (folder, path)
    }

    #[test]
    fn the_file_is_the_owners_and_is_replaced_only_on_wish() {
        let (_folder, path) = file();
        create(&path, &Secret::new(PASSWORD), false).unwrap();
        let first = Stored::read(&path).unwrap();
        assert!(first.verify(&Secret::new(PASSWORD)));
        assert!(!first.verify(&Secret::new("correct horse batterz")));
        assert!(!first.verify(&Secret::new("")));
        assert!(!first.verify(&Secret::new("x".repeat(LONGEST + 1))));
        let again = create(&path, &Secret::new(PASSWORD), false);
        assert!(matches!(again, Err(PasswordError::Exists(_))), "{again:?}");
        assert_eq!(Stored::read(&path).unwrap().proof(), first.proof());
        create(&path, &Secret::new(PASSWORD), true).unwrap();
        assert_ne!(
            Stored::read(&path).unwrap().proof(),
            first.proof(),
            "sessions end, though the password is the same"
        );
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing is left aside");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn short_passwords_and_files_without_a_hash_are_refused() {
        let (_folder, path) = file();
        let short = create(&path, &Secret::new("elevenchars"), false);
        assert!(matches!(short, Err(PasswordError::Length)) && !path.exists());
        std::fs::write(&path, "correct horse battery\n").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let plain = Stored::read(&path).map(|_| ());
        assert!(matches!(plain, Err(PasswordError::NoHash(_))), "{plain:?}");
    }

    #[test]
    fn who_guesses_waits_ever_longer_and_others_do_not() {
        let gate = Gate::default();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut now = Timestamp::from_secs(1_000_000);
        for _ in 0..FREE {
            assert_eq!(gate.enter(a, now), Ok(a));
        }
        let mut waits = Vec::new();
        for _ in 0..12 {
            let wait = gate.enter(a, now).unwrap_err();
            waits.push(wait.as_secs());
            assert_eq!(gate.waits(a, now), Some(wait), "and asking counts nothing");
            now = now.plus(wait);
            assert_eq!(gate.enter(a, now), Ok(a));
        }
        assert_eq!(&waits[..4], [1, 2, 4, 8]);
        assert_eq!(waits.last(), Some(&900));
        assert_eq!(gate.waits(b, now), None);
        assert_eq!(gate.enter(b, now), Ok(b));
        now = now.plus(FORGIVEN);
        assert_eq!(gate.enter(a, now), Ok(a));
        gate.forgive(a);
        for _ in 0..FREE {
            assert_eq!(gate.enter(a, now), Ok(a), "whoever knows it begins anew");
        }
    }

    #[test]
    fn a_flood_of_addresses_shares_one_budget() {
        let gate = Gate::default();
        let now = Timestamp::from_secs(1_000_000);
        let address = |n: usize| IpAddr::from(std::net::Ipv6Addr::from_bits(n as u128 + 1));
        for n in 0..MOST_ADDRESSES {
            gate.enter(address(n), now).unwrap();
        }
        let allowed = (MOST_ADDRESSES..MOST_ADDRESSES + 20)
            .filter(|n| gate.enter(address(*n), now).is_ok())
            .count();
        assert_eq!(allowed, usize::try_from(FREE).unwrap());
    }
}
