//! The images of this server while it runs: looks at folders again when something changes in them or on SIGHUP, opens what
//! is new, and puts the new set in the place of the old one. Nobody who has an image loses it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::{info, warn};

use super::folders::Watch;
use super::problem::Problem;
use super::shelf::{self, Volume};
use super::stand::{Event, Stand};
use super::{Fatal, hooks, notify, scan};
use crate::boot::files::{Files, Terms};
use crate::boot::menu::Root;
use crate::boot::{Leased, Site, UefiBy};
use crate::config::Place;
use crate::images::{ImageSet, ServedImage};
use crate::machines::Registry;
use crate::watched::{WatchSender, Watched};

/// Between two looks at who still uses old images.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is there to begin with.
#[derive(Debug)]
pub struct Opened {
    /// At least one, the default first.
    pub volumes: Vec<Volume>,
    told: Vec<String>,
}

/// Opens the images at these places.
///
/// # Errors
/// What is wrong with them, unless it is a file that nobody named.
pub fn open(places: &[Place]) -> Result<Opened, Problem> {
    let (volumes, mut problems) = stock(places, &Stand::new(Vec::new()));
    if let Some(fatal) = problems.iter().position(Problem::is_fatal) {
        return Err(problems.swap_remove(fatal));
    }
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    told.iter().for_each(|line| warn!("{line}"));
    if volumes.is_empty() { Err(Problem::NothingOpens) } else { Ok(Opened { volumes, told }) }
}

/// What is at these places. Waits for the disk.
fn stock(places: &[Place], stand: &Stand) -> (Vec<Volume>, Vec<Problem>) {
    let (found, mut problems) = scan::look(places);
    let retired: Vec<_> = stand.retired().cloned().collect();
    let (volumes, more) = shelf::stock(found, &stand.shelf, &retired);
    problems.extend(more);
    (volumes, problems)
}

/// See the module.
#[derive(Debug)]
pub struct Library {
    places: Vec<Place>,
    /// What the operator chose, but for what is otherwise for some images.
    terms: Terms,
    /// The roots that are served.
    roots: Vec<Root>,
    machines: Arc<Registry>,
    stand: Stand,
    images: WatchSender<ImageSet>,
    files: WatchSender<Files>,
    site: WatchSender<Site>,
    /// What was wrong the last time: nobody wants to read it again each time.
    told: Vec<String>,
}

impl Library {
    /// A library of the images that were opened.
    ///
    /// # Errors
    /// Why there is nothing to serve.
    pub fn new(
        places: Vec<Place>,
        opened: Opened,
        terms: Terms,
        roots: Vec<Root>,
        machines: Arc<Registry>,
    ) -> Result<Self, Fatal> {
        let Opened { volumes, told } = opened;
        let stand = Stand::new(volumes);
        let images = Arc::new(stand.images().ok_or(Problem::NothingOpens)?);
        machines.serve(&images);
        let files = Files::new(Arc::clone(&images), terms_for(&stand, &places, &terms))?;
        if let Some(name) = files.unknown_images().next() {
            return Err(Fatal::UnknownImage(name.clone()));
        }
        let files = Arc::new(files);
        tell_uefi(&files, &terms, |_| true);
        let site = WatchSender::new(Arc::new(files.site()));
        let (images, files) = (WatchSender::new(images), WatchSender::new(files));
        Ok(Self { places, terms, roots, machines, stand, images, files, site, told })
    }

    pub fn images(&self) -> Watched<ImageSet> {
        self.images.subscribe()
    }

    pub fn files(&self) -> Watched<Files> {
        self.files.subscribe()
    }

    /// What DHCP offers.
    pub fn site(&self) -> Watched<Site> {
        self.site.subscribe()
    }

    pub fn leased(&self) -> Arc<Leased> {
        Arc::clone(&self.terms.leased)
    }

    /// Keeps the images up to date until `shutdown` is ready.
    pub async fn run(mut self, mut hangup: Signal, shutdown: impl Future<Output = ()>) {
        let mut watch = self.watch();
        let all = self.stand.shelf.iter().map(|volume| volume.served().clone()).collect();
        self.check(all);
        let mut clock = interval(LOOK_EVERY);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(()) = hangup.recv() => self.reload().await,
                changed = changed(&mut watch) => match changed {
                    Ok(()) => self.renew().await,
                    Err(error) => {
                        warn!(%error, "folders cannot be watched any more: SIGHUP has them looked at");
                        watch = None;
                    }
                },
                _ = clock.tick() => self.look().await,
            }
            // What was missing may be there now.
            watch.as_mut().map(Watch::renew);
        }
    }

    /// A watch over the folders, if the system lets us have one.
    fn watch(&self) -> Option<Watch> {
        let mut watch = match Watch::new(self.places.clone()) {
            Ok(watch) => watch,
            Err(error) => {
                warn!(%error, "folders cannot be watched: after a change, send isowire SIGHUP");
                return None;
            }
        };
        if let Some((folder, error)) = watch.renew() {
            warn!(folder = %folder.display(), %error, "cannot be watched: after a change there, send isowire SIGHUP");
        }
        Some(watch)
    }

    /// As [`Library::renew`], and tells systemd.
    async fn reload(&mut self) {
        info!("SIGHUP: looking for images again");
        let mut state = vec![NotifyState::Reloading];
        state.extend(NotifyState::monotonic_usec_now());
        notify(&state);
        self.renew().await;
        notify(&[NotifyState::Ready]);
    }

    /// Goes over to what the folders hold now.
    async fn renew(&mut self) {
        let now = Instant::now();
        self.stand.look(now);
        let (places, stand) = (self.places.clone(), self.stand.clone());
        let stocked = spawn_blocking(move || stock(&places, &stand)).await;
        let Ok((volumes, mut problems)) = stocked else { return };
        if volumes.is_empty() {
            problems.push(Problem::NothingLeft);
        }
        self.complain(&problems);
        if volumes.is_empty() {
            return;
        }
        let (next, events) = self.stand.next(volumes, now);
        if events.is_empty() && next.serves_as(&self.stand) {
            self.stand = next;
        } else {
            self.go_over_to(next, &events).await;
        }
    }

    /// Lets go of the old images that nobody uses any more.
    async fn look(&mut self) {
        let now = Instant::now();
        self.stand.look(now);
        let mut next = self.stand.clone();
        let events = next.let_go(now);
        if !events.is_empty() {
            self.go_over_to(next, &events).await;
        }
    }

    async fn go_over_to(&mut self, next: Stand, events: &[Event]) {
        let Some(images) = next.images().map(Arc::new) else { return };
        let (terms, of) = (terms_for(&next, &self.places, &self.terms), Arc::clone(&images));
        // It reads menus, and the stub of each image.
        let files = match spawn_blocking(move || Files::new(of, terms)).await.map_err(io::Error::other) {
            Ok(Ok(files)) => Arc::new(files),
            Ok(Err(taken)) => return warn!("the images stay as they were: {taken}"),
            Err(error) => return warn!("the images stay as they were: {error}"),
        };
        // Whoever reads of an image in the menu finds it.
        self.machines.serve(&images);
        self.images.publish(images);
        self.files.publish(Arc::clone(&files));
        self.site.publish(Arc::new(files.site()));
        self.stand = next;
        events.iter().for_each(Event::tell);
        for name in files.unknown_images() {
            warn!("a [[machine]] is to boot the image `{name}`, and no image of that name boots now");
        }
        let new = |event: &Event| match event {
            Event::Added(volume) | Event::Replaced(volume) | Event::Overwritten(volume) => {
                Some(volume.served().clone())
            }
            Event::Gone(_) | Event::LetGo(_) | Event::Default(_) => None,
        };
        let new: Vec<_> = events.iter().filter_map(new).collect();
        tell_uefi(&files, &self.terms, |name| new.iter().any(|served| served.name == name));
        self.check(new);
    }

    /// Warns of initramfs images without the hooks for a root, as soon as that is known.
    fn check(&self, images: Vec<ServedImage>) {
        let roots = self.roots.clone();
        spawn_blocking(move || hooks::check(&images, &roots));
    }

    fn complain(&mut self, problems: &[Problem]) {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        lines.iter().filter(|line| !self.told.contains(line)).for_each(|line| warn!("{line}"));
        self.told = lines;
    }
}

async fn changed(watch: &mut Option<Watch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// The terms with what is otherwise for the images of a place.
fn terms_for(stand: &Stand, places: &[Place], terms: &Terms) -> Terms {
    let preferences = stand.shelf.iter().filter_map(|volume| {
        let is_file = |place: &&Place| place.path == volume.path;
        let is_folder = |place: &&Place| volume.path.parent() == Some(&*place.path);
        let place = places.iter().find(is_file).or_else(|| places.iter().find(is_folder))?;
        Some((volume.served().name.clone(), place.preferences.clone()))
    });
    Terms { preferences: preferences.collect(), ..terms.clone() }
}

/// By what these images boot UEFI machines. With iPXE none needs a program.
fn tell_uefi(files: &Files, terms: &Terms, is_new: impl Fn(&str) -> bool) {
    for (image, programs) in files.programs().filter(|(image, _)| is_new(image)) {
        match programs {
            _ if terms.uefi_by == UefiBy::Ipxe => info!(image, "UEFI machines boot by iPXE"),
            Ok(programs) => info!(image, "UEFI machines boot by the {}", programs.stub()),
            Err(why) => warn!(image, "UEFI machines do not boot from here: {why}"),
        }
    }
}
