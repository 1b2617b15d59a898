//! The task that keeps the images up to date: scans folders again when something in them changes or
//! on SIGHUP, asks object stores every minute, opens new images, and publishes the next snapshot. Connected clients keep their
//! image.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant as TokioInstant, Interval, MissedTickBehavior, interval, interval_at};
use tracing::{info, warn};

use super::snapshot::{Snapshot, SnapshotSender};
use super::{StartError, file_checks, initramfs_check, notify, verification};
use crate::boot::uefi::Programs;
use crate::boot::{BootConfig, Files, ImageNumber, ImageUserData, UefiBy};
use crate::bootable::Root;
use crate::config::ImageConfig;
use crate::images::verify::VerifyEvent;
use crate::images::watch::FolderWatch;
use crate::images::{self, ImageChange, ImageError, ImageSet, SearchPath, ServedImage, Verifications};
use crate::machines::Registry;
use crate::panics::caught_task;
use crate::store::{Place, Remote};
use crate::text::Word;
use crate::watched::Watched;

/// Interval at which retained images are checked for expiry.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Interval at which object stores are asked for their images.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Images with which isowire starts.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) images: ImageSet,
    /// The errors that were logged.
    logged: Vec<String>,
    verifications: Option<Arc<Verifications>>,
    remote: Option<Arc<Remote>>,
}

/// Opens the images that are configured. Those that the process before this one `carried` are open
/// already, and its clients keep them. With `verifications`, waits until the first image is
/// verified.
///
/// # Errors
/// The first error that is fatal; the others are logged.
pub(super) fn open(
    configs: &[ImageConfig],
    carried: Option<ImageSet>,
    verifications: Option<Arc<Verifications>>,
    remote: Option<Arc<Remote>>,
) -> Result<Opened, ImageError> {
    match carried {
        Some(current) => Ok(open_again(configs, current, verifications, remote)),
        None => open_first(configs, verifications, remote),
    }
}

/// Opens the images beside those that are open already. As in a running process, no error is fatal.
fn open_again(
    configs: &[ImageConfig],
    current: ImageSet,
    verifications: Option<Arc<Verifications>>,
    remote: Option<Arc<Remote>>,
) -> Opened {
    let paths = search_paths(configs);
    let (images, errors) = images::find(&paths, Some(&current), verifications.as_deref(), remote.as_deref());
    let logged: Vec<_> = errors.iter().map(ToString::to_string).collect();
    logged.iter().for_each(|line| warn!("{line}"));
    match current.succeed(images, Instant::now()) {
        Some((next, changes)) => {
            changes.iter().for_each(ImageChange::log);
            Opened { images: next, logged, verifications, remote }
        }
        None => Opened { images: current, logged, verifications, remote },
    }
}

fn open_first(
    configs: &[ImageConfig],
    verifications: Option<Arc<Verifications>>,
    remote: Option<Arc<Remote>>,
) -> Result<Opened, ImageError> {
    let paths = search_paths(configs);
    let find = || images::find(&paths, None, verifications.as_deref(), remote.as_deref());
    let (images, mut errors) = verification::until_first(verifications.as_deref(), find);
    if let Some(fatal) = errors.iter().position(|error| ends_start(error, images.is_empty())) {
        return Err(errors.swap_remove(fatal));
    }
    let logged: Vec<_> = errors.iter().map(ToString::to_string).collect();
    logged.iter().for_each(|line| warn!("{line}"));
    let images = ImageSet::of(images).ok_or(ImageError::NothingOpens)?;
    Ok(Opened { images, logged, verifications, remote })
}

/// Returns whether isowire does not start with this error: one about a file that the operator named,
/// or about a folder, a store or an image if nothing is left.
pub(super) fn ends_start(error: &ImageError, is_nothing_left: bool) -> bool {
    let is_last = error.is_of_folder() || error.is_of_verification();
    error.is_fatal() || (is_nothing_left && is_last)
}

pub(super) fn search_paths(configs: &[ImageConfig]) -> Vec<SearchPath> {
    configs.iter().map(search_path).collect()
}

fn search_path(ImageConfig { path, name, .. }: &ImageConfig) -> SearchPath {
    SearchPath { path: path.clone(), name: name.as_ref().map(|name| name.as_str().to_owned()) }
}

/// Keeps the images up to date and publishes them.
#[derive(Debug)]
pub(super) struct ImageUpdater {
    configs: Vec<ImageConfig>,
    /// The operator's choices for all images.
    boot_config: BootConfig,
    /// The roots that are served.
    roots: Vec<Root>,
    current: Arc<ImageSet>,
    snapshots: SnapshotSender,
    /// Time for which clients wait for a disk that fails or hangs.
    stall_timeout: Duration,
    /// The errors of the last scan: each is logged once.
    logged: Vec<String>,
    /// Held by the check of initramfs images that runs.
    checking: Arc<Mutex<()>>,
    /// The process may open no other folders than those of its start.
    is_confined: bool,
    verifications: Option<Arc<Verifications>>,
    remote: Option<Arc<Remote>>,
}

impl ImageUpdater {
    /// Creates an updater that begins with the opened images.
    ///
    /// # Errors
    /// [`StartError`] if they cannot be served as the operator wants it.
    pub(super) fn new(
        configs: Vec<ImageConfig>,
        opened: Opened,
        boot_config: BootConfig,
        roots: Vec<Root>,
        stall_timeout: Duration,
        machines: Arc<Registry>,
    ) -> Result<Self, StartError> {
        let Opened { images, logged, verifications, remote } = opened;
        prepare(&images, stall_timeout);
        let current = Arc::new(images);
        let first = Snapshot::new(Arc::clone(&current), config_for(&current, &configs, &boot_config))?;
        // Images of a folder come and go; only a name that no file can bring is a mistake.
        let has_folder = configs.iter().any(is_folder);
        let mut unknown = unknown_images(&first.files, verifications.as_deref());
        match unknown.next() {
            Some(name) if !has_folder => return Err(StartError::UnknownImage(name.clone())),
            name => name.into_iter().chain(unknown).for_each(warn_unknown_image),
        }
        log_uefi(&first.files, &boot_config, |_| true);
        Ok(Self {
            configs,
            boot_config,
            roots,
            current,
            snapshots: SnapshotSender::new(first, machines),
            stall_timeout,
            logged,
            checking: Arc::default(),
            is_confined: false,
            verifications,
            remote,
        })
    }

    /// Notes that the process may open no other folders than now.
    pub(super) fn confine(&mut self) {
        self.is_confined = true;
    }

    /// Returns the snapshot that all services follow.
    pub(super) fn snapshot(&self) -> Watched<Snapshot> {
        self.snapshots.snapshot()
    }

    /// Keeps the images up to date until `shutdown` is ready.
    pub(super) async fn run(mut self, mut hangup: Signal, shutdown: impl Future<Output = ()>) {
        let mut watch = self.watch();
        self.check_initramfs(self.current.iter().cloned().collect());
        tokio::spawn(file_checks::run(self.snapshot()));
        let mut clock = interval(EXPIRY_INTERVAL);
        let mut polls = polls();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(()) = hangup.recv() => drop(caught_task(self.reload()).await),
                changed = changed(&mut watch) => match changed {
                    Ok(()) => drop(caught_task(self.rescan()).await),
                    Err(error) => {
                        warn!("folder watch lost: {error}; after a change, send isowire SIGHUP");
                        // A queue that cannot be read stays so; SIGHUP still works.
                        watch = None;
                    }
                },
                () = verification::changed(self.verifications.as_deref()) => drop(caught_task(self.verified()).await),
                _ = polls.tick(), if self.remote.is_some() => drop(caught_task(self.poll()).await),
                _ = clock.tick() => {
                    let _ = caught_task(self.expire()).await;
                    let _ = caught_task(self.retry_verification()).await;
                }
            }
            // A folder that was missing may exist now.
            watch.as_mut().map(FolderWatch::renew);
        }
    }

    /// Watches the folders, if the system permits.
    fn watch(&self) -> Option<FolderWatch> {
        let mut paths = search_paths(&self.configs);
        paths.retain(|search| !Place::is_url(&search.path));
        let mut watch = match FolderWatch::new(paths) {
            Ok(watch) => watch,
            Err(error) => {
                warn!("folders not watched: {error}; after a change, send isowire SIGHUP");
                return None;
            }
        };
        if let Some((folder, error)) = watch.renew() {
            warn!(folder = %folder.display(), "folder not watched: {error}; after a change there, send isowire SIGHUP");
        }
        Some(watch)
    }

    /// Scans as [`ImageUpdater::rescan`], and tells systemd so (sd_notify(3), RELOADING=1).
    async fn reload(&mut self) {
        info!("SIGHUP received: looking for images");
        let mut state = vec![NotifyState::Reloading];
        // Type=notify-reload needs MONOTONIC_USEC= as well (sd_notify(3)).
        state.extend(NotifyState::monotonic_usec_now());
        notify(&state);
        self.rescan().await;
        notify(&[NotifyState::Ready]);
    }

    /// Asks the object stores, and finds out whether a process is gone that shared the cache folder.
    async fn poll(&mut self) {
        self.remote.iter().for_each(|remote| remote.cache().set_shared(false));
        self.rescan().await;
    }

    /// Publishes the images whose verification has ended.
    async fn verified(&mut self) {
        let events = self.verifications.iter().flat_map(|verifications| verifications.take_events());
        let events: Vec<_> = events.collect();
        events.iter().for_each(VerifyEvent::log);
        if events.iter().any(VerifyEvent::is_end) {
            self.rescan().await;
        }
    }

    /// Has images verified that could not be read.
    async fn retry_verification(&mut self) {
        if self.verifications.as_ref().is_some_and(|verifications| verifications.has_unread()) {
            self.rescan().await;
        }
    }

    /// Publishes the images that the paths hold now.
    async fn rescan(&mut self) {
        let now = Instant::now();
        // Before the retention rule looks at the calls.
        self.current.date_calls(now);
        let (paths, current) = (search_paths(&self.configs), Arc::clone(&self.current));
        let (verifications, remote) = (self.verifications.clone(), self.remote.clone());
        let find = move || images::find(&paths, Some(&current), verifications.as_deref(), remote.as_deref());
        let found = spawn_blocking(find).await;
        // The scan panicked, or the runtime ends: the images stay as they are.
        let Ok((images, mut errors)) = found else { return };
        if images.is_empty() {
            errors.push(ImageError::NothingLeft);
        }
        self.log_new(&errors);
        if let Some((next, changes)) = self.current.succeed(images, now) {
            self.publish(next, &changes).await;
        }
    }

    /// Closes the retained images whose retention period is over.
    async fn expire(&mut self) {
        let now = Instant::now();
        self.current.date_calls(now);
        if let Some((next, changes)) = self.current.expire(now) {
            self.publish(next, &changes).await;
        }
    }

    /// Publishes the next set, and logs its changes.
    async fn publish(&mut self, next: ImageSet, changes: &[ImageChange]) {
        prepare(&next, self.stall_timeout);
        let next = Arc::new(next);
        let (boot_config, images) = (config_for(&next, &self.configs, &self.boot_config), Arc::clone(&next));
        // Reads the boot menus and the EFI stub of each image from the disk.
        let snapshot =
            spawn_blocking(move || Snapshot::new(images, boot_config)).await.map_err(io::Error::other);
        let snapshot = match snapshot {
            Ok(Ok(snapshot)) => Arc::new(snapshot),
            Ok(Err(error)) => return warn!("images not changed: {error}"),
            Err(error) => return warn!("images not changed: {error}"),
        };
        self.snapshots.publish(Arc::clone(&snapshot));
        self.current = next;
        // Logged when the new images can be used, so that operators and tests can rely on the line.
        changes.iter().for_each(ImageChange::log);
        unknown_images(&snapshot.files, self.verifications.as_deref()).for_each(warn_unknown_image);
        let new: Vec<_> = changes.iter().filter_map(ImageChange::new_image).cloned().collect();
        log_uefi(&snapshot.files, &self.boot_config, |name| new.iter().any(|served| served.name == name));
        self.check_initramfs(new);
    }

    /// Starts a check for initramfs images without the hooks for a root.
    fn check_initramfs(&self, mut images: Vec<Arc<ServedImage>>) {
        // Those in an object store are fetched when a machine boots them: a bucket may have many.
        images.retain(|served| served.image.source.object().is_none());
        let (roots, turn) = (self.roots.clone(), Arc::clone(&self.checking));
        let machines = self.snapshots.machines();
        tokio::spawn(async move {
            // One at a time: on a disk that hangs, they would take all threads.
            let _turn = turn.lock().await;
            let _ = spawn_blocking(move || initramfs_check::check(&images, &roots, &machines)).await;
        });
    }

    /// Returns the line about an error of the running server.
    fn line(&self, error: &ImageError) -> String {
        // The sandbox is for the folders of the start, and so is what the later user may read.
        let advice = match error.is_denied() && self.is_confined {
            true => {
                "; if its folder is not one of those at the start, restart isowire, or set `sandbox = off`"
            }
            false => "",
        };
        format!("{error}{advice}")
    }

    /// Logs the errors that the last scan did not have.
    fn log_new(&mut self, errors: &[ImageError]) {
        let lines: Vec<_> = errors.iter().map(|error| self.line(error)).collect();
        lines.iter().filter(|line| !self.logged.contains(line)).for_each(|line| warn!("{line}"));
        // An error that goes away and comes back is logged again.
        self.logged = lines;
    }
}

/// Tells whether a path stands for the images that are in it.
fn is_folder(ImageConfig { path, .. }: &ImageConfig) -> bool {
    Place::of(path).map_or_else(|| path.is_dir(), |place| place.is_folder())
}

/// Returns the times at which object stores are asked again.
fn polls() -> Interval {
    let mut polls = interval_at(TokioInstant::now() + POLL_INTERVAL, POLL_INTERVAL);
    // A store that does not answer takes some seconds.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    polls
}

/// Waits for a change in the folders; for ever if they are not watched.
async fn changed(watch: &mut Option<FolderWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Prepares images for their clients.
fn prepare(images: &ImageSet, stall_timeout: Duration) {
    for served in images.known() {
        served.image.source.set_stall_timeout(stall_timeout);
        served.image.source.have_reader();
    }
}

/// Returns the operator's choices with those for these images.
fn config_for(images: &ImageSet, configs: &[ImageConfig], boot_config: &BootConfig) -> BootConfig {
    let mut config = boot_config.clone();
    for served in images.iter() {
        let Some((number, of_image)) = config_of(served, configs) else { continue };
        config.overrides.insert(served.name.clone(), of_image.overrides.clone());
        if let Some(user_data) = of_image.user_data.clone() {
            config.image_user_data.insert(served.name.clone(), ImageUserData { number, user_data });
        }
    }
    config
}

/// Returns the configuration of an image with its number: the one of its file, or the one of its
/// folder.
fn config_of<'a>(served: &ServedImage, configs: &'a [ImageConfig]) -> Option<(ImageNumber, &'a ImageConfig)> {
    let mut numbered = (0..=u16::MAX).map(ImageNumber).zip(configs);
    // A file that was named has overrides of its own, also in a folder that was named.
    let named = numbered.clone().find(|(_, config)| config.path == served.path());
    named.or_else(|| numbered.find(|(_, config)| served.path().parent() == Some(&*config.path)))
}

/// Returns the names in rules that no image has, and none that is being verified will have.
fn unknown_images<'a>(
    files: &'a Files,
    verifications: Option<&'a Verifications>,
) -> impl Iterator<Item = &'a Word> {
    let is_pending = move |name: &Word| verifications.is_some_and(|all| all.is_pending(name.as_str()));
    files.unknown_images().filter(move |name| !is_pending(name))
}

fn warn_unknown_image(name: &Word) {
    warn!("no bootable image called `{name}`: its [[machine]] boots the default image");
}

/// Logs how UEFI machines boot the new images. With iPXE they need no boot program.
fn log_uefi(files: &Files, boot_config: &BootConfig, is_new: impl Fn(&str) -> bool) {
    for (image, programs) in files.programs().filter(|(image, _)| is_new(image)) {
        match programs {
            _ if boot_config.uefi_by == UefiBy::Ipxe => info!(image, "UEFI machines boot by iPXE"),
            Ok(programs) => log_program(image, programs),
            Err(error) => warn!(image, "UEFI machines cannot boot this image: {error}"),
        }
    }
}

fn log_program(image: &str, programs: &Programs) {
    let stub = programs.stub();
    match programs.signer() {
        // With the key on this host, a file in a folder of images is enough for a signature.
        Some(signer) => {
            let pair = signer.pair();
            info!(image, "UEFI machines boot by the {stub}, signed for Secure Boot by `{pair}`")
        }
        None => info!(image, "UEFI machines boot by the {stub}"),
    }
}
