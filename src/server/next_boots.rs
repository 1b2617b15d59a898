//! The next boots of machines: notes boots that are done, takes what the operator says, and keeps
//! all of it over a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::interval;
use tracing::{info, warn};

use super::directory::Directory;
use crate::boot::next::{NextBoot, TEXT_MAX};
use crate::boot::{Files, Rules};
use crate::config::Config;
use crate::locked::locked;
use crate::machines::{FinishedBoot, Mac, Registry, neighbours};
use crate::text::Word;
use crate::watched::Watched;

/// Name of the file in the directory of state.
pub(super) const NAME: &str = "next-boots";

/// Interval at which boots that are done are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The file, in a directory that is opened before the user changes.
#[derive(Debug)]
pub(super) struct NextFile {
    path: PathBuf,
    /// `None` without a directory: nothing can be kept.
    open: Option<Directory>,
    /// Held while it is written.
    writing: Mutex<()>,
}

impl NextFile {
    /// Opens the directory, and restores the next boots that are kept there. Makes the directory if
    /// a rule needs it.
    ///
    /// # Errors
    /// The reason in one line, with what to do.
    pub(super) fn open(config: &Config) -> Result<Self, String> {
        let directory = config.state_directory.clone();
        let place = directory.join(NAME).display().to_string();
        let needs_it = config.rules.iter().any(|rule| rule.is_once);
        if needs_it {
            std::fs::create_dir_all(&directory).map_err(|error| {
                format!("once: {}: {error}; let isowire write there", directory.display())
            })?;
        }
        let file =
            Self { open: Directory::open(&directory).ok(), path: directory, writing: Mutex::default() };
        let text = file.read().map_err(|error| format!("{place}: {error}; let isowire read it"))?;
        if let Some(text) = text {
            let restored = config.rules.next().restore(&text, Timestamp::now().as_second());
            restored.map_err(|error| format!("{place}: {error}; remove the file"))?;
        }
        // Boots that are not kept come again after a restart. Another process may have it to itself yet.
        if needs_it && !config.takeover {
            let written = file.write(&config.rules, 0);
            written.map_err(|error| format!("once: {place}: {error}; let isowire write there"))?;
        }
        Ok(file)
    }

    /// Returns the directory if there is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.open.as_ref().map(|_| &*self.path)
    }

    fn read(&self) -> io::Result<Option<String>> {
        let Some(directory) = &self.open else { return Ok(None) };
        let bytes = directory.read(NAME, TEXT_MAX)?;
        bytes.map(String::from_utf8).transpose().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Replaces the file as a whole. The system's clock is `ahead` of that of the rules.
    fn write(&self, rules: &Rules, ahead: i64) -> io::Result<()> {
        let directory = self.open.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let _writing = locked(&self.writing);
        directory.replace(NAME, rules.next().text(ahead).as_bytes())
    }
}

/// The next boots of a running server.
#[derive(Debug)]
pub(super) struct NextBootControl {
    pub file: Arc<NextFile>,
    pub rules: Rules,
    pub files: Watched<Files>,
    pub machines: Arc<Registry>,
    /// The log says that there is no room for more.
    pub is_full: AtomicBool,
}

impl NextBootControl {
    /// Notes boots that are done until `stop` is ready.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) {
        let mut clock = interval(INTERVAL);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = clock.tick() => {}
            }
            if self.rules.depend_on_boots() {
                // Next boots are those of MAC addresses.
                neighbours::introduce(&self.machines, Instant::now());
                self.note(&self.machines.finished());
            }
        }
    }

    fn note(&self, finished: &[FinishedBoot]) {
        let mut is_changed = false;
        for FinishedBoot { machine, asked, by_call } in finished {
            // With a seed, cloud-init says when all is set up, which is later.
            if !by_call && self.files.current().has_seed(*machine) {
                continue;
            }
            match self.rules.finished(*machine, *asked) {
                Ok(true) => {
                    info!(mac = %machine, "boot done: the machine boots from its local disk from now on");
                    is_changed = true;
                }
                Err(error) if !self.is_full.swap(true, Ordering::Relaxed) => {
                    warn!(mac = %machine, "boot done, but it is not noted, and comes again: {error}");
                }
                Ok(false) | Err(_) => {}
            }
        }
        if is_changed && let Err(error) = tokio::task::block_in_place(|| self.write()) {
            let file = self.file.path.join(NAME);
            warn!(file = %file.display(), "next boots not written: {error}; a restart forgets them");
        }
    }

    /// Returns the time by the clock of boots.
    fn now(&self) -> i64 {
        self.machines.seconds(Instant::now(), Timestamp::now())
    }

    /// Writes the file, with times that the next process can use.
    fn write(&self) -> io::Result<()> {
        self.file.write(&self.rules, Timestamp::now().as_second() - self.now())
    }

    fn boot(&self, text: &str) -> Result<NextBoot, String> {
        match text {
            "local" => Ok(NextBoot::Local),
            "rule" => Ok(NextBoot::Rule),
            name => {
                let image = Word::new(name).filter(|name| self.files.current().has_image(name));
                let unknown =
                    || format!("no bootable image called `{}`; see `isowire status`", name.escape_debug());
                image.map(NextBoot::Image).ok_or_else(unknown)
            }
        }
    }
}

impl NextBootControl {
    /// Notes what a machine boots next, and returns what to say.
    ///
    /// # Errors
    /// The reason in one line.
    pub(super) fn tell(&self, machine: Mac, boot: &str) -> Result<String, String> {
        let boot = self.boot(boot)?;
        if self.file.directory().is_none() {
            let directory = self.file.path.display();
            return Err(format!("the server has no place to note it: make {directory} and restart it"));
        }
        let now = self.now();
        self.rules.tell(machine, boot.clone(), now).map_err(|error| error.to_string())?;
        let directory = self.file.path.display();
        self.write().map_err(|error| format!("{directory}/{NAME}: {error}; a restart forgets it"))?;
        info!(mac = %machine, ?boot, "next boot told");
        Ok(match boot {
            NextBoot::Image(image) => format!("{machine} boots {image} next, and then from its local disk"),
            NextBoot::Rule => format!("{machine} boots as its rule says"),
            NextBoot::Local => format!("{machine} boots from its local disk"),
        })
    }
}
