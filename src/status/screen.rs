//! The terminal of `isowire status --watch`: draws the view on the alternate screen, reads keys, and
//! leaves the terminal as it was, however the program ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{panic, thread};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue, terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::table::Size;
use super::view::{Key, ScreenLine, Style, View};
use super::{StatusAddress, WATCH_INTERVAL, fetch_log, fetch_report};
use crate::locked::locked;
use crate::machines::StatusReport;
use crate::machines::status::StoryLine;

/// Longest wait for a key: signals and reports are looked for as often.
const TICK: Duration = Duration::from_millis(100);

/// Size of a terminal that does not tell it.
const USUAL: Size = Size { width: 80, height: 24 };

/// Returns the size of the terminal on standard output.
pub(super) fn size() -> Size {
    match terminal::size() {
        Ok((width, height)) if width > 0 && height > 0 => Size { width: width.into(), height: height.into() },
        _ => USUAL,
    }
}

/// Shows the status until the person at the terminal or a signal ends it. `first` is the first
/// report.
///
/// # Errors
/// The error of the terminal.
pub(super) fn run(place: StatusAddress, first: StatusReport) -> io::Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_over))?;
    }
    restore_on_panic();
    let mut view = View::default();
    view.update(Ok(first));
    let shown = Arc::new(Mutex::new(None));
    let fetched = fetch_reports(place, Arc::clone(&shown));
    let mut terminal = Terminal::enter()?;
    while !is_over.load(Ordering::Relaxed) {
        terminal.draw(view.screen(size()))?;
        wait_for_key()?;
        while event::poll(Duration::ZERO)? {
            if !handle(&mut view, &event::read()?) {
                return Ok(());
            }
        }
        *locked(&shown) = view.shown_story();
        for Fetched { report, log } in fetched.try_iter() {
            view.update(report);
            view.update_log(log);
        }
    }
    Ok(())
}

/// Waits for a key, or for a moment.
///
/// # Errors
/// `NotConnected` if the terminal is gone: crossterm would read from it without end.
fn wait_for_key() -> io::Result<()> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as _ };
    match poll(&mut polled, Some(&tick)) {
        // A signal, such as that of a new size.
        Err(Errno::INTR) | Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let is_gone = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
    if polled.iter().any(is_gone) { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
}

/// What the server says in one turn.
struct Fetched {
    report: Result<StatusReport, String>,
    /// Lines of the log about the machine whose story is shown.
    log: Option<(String, Vec<StoryLine>)>,
}

/// Fetches reports in a thread of its own, so that a server that is away stops no key. `shown` is the
/// machine whose story is shown.
fn fetch_reports(place: StatusAddress, shown: Arc<Mutex<Option<String>>>) -> Receiver<Fetched> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        loop {
            thread::sleep(WATCH_INTERVAL);
            let report = fetch_report(&place).map_err(|error| error.to_string());
            let machine = locked(&shown).clone();
            let log = machine.map(|machine| {
                let lines = fetch_log(&place, &machine);
                (machine, lines)
            });
            // The receiver goes with the view.
            if sender.send(Fetched { report, log }).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Handles an event of the terminal; returns false if it ends the view.
fn handle(view: &mut View, event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return true };
    if *kind == KeyEventKind::Release {
        return true;
    }
    if modifiers.contains(KeyModifiers::CONTROL) {
        // In raw mode Ctrl-C is a key.
        return !matches!(code, KeyCode::Char('c' | 'd'));
    }
    let key = match code {
        KeyCode::Char(c) => Key::Char(*c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return true,
    };
    view.handle(key, size().height)
}

/// The alternate screen, until it is dropped.
struct Terminal {
    /// Lines that are on the screen.
    drawn: Vec<ScreenLine>,
    size: Size,
}

impl Terminal {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let terminal = Self { drawn: Vec::new(), size: size() };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide, Clear(ClearType::All))?;
        Ok(terminal)
    }

    /// Draws the lines that changed, at once.
    fn draw(&mut self, lines: Vec<ScreenLine>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.size != size() {
            (self.size, self.drawn) = (size(), Vec::new());
            queue!(out, Clear(ClearType::All))?;
        }
        if lines == self.drawn {
            return Ok(());
        }
        queue!(out, BeginSynchronizedUpdate)?;
        for (row, line) in lines.iter().enumerate() {
            if self.drawn.get(row) != Some(line) {
                draw_line(&mut out, row, line)?;
            }
        }
        queue!(out, EndSynchronizedUpdate)?;
        self.drawn = lines;
        out.flush()
    }
}

fn draw_line(out: &mut impl Write, row: usize, line: &ScreenLine) -> io::Result<()> {
    let attribute = match line.style {
        Style::Plain => Attribute::Reset,
        Style::Bold | Style::Alarm => Attribute::Bold,
        Style::Selected => Attribute::Reverse,
    };
    // A terminal has fewer lines than that.
    let row = u16::try_from(row).unwrap_or(u16::MAX);
    queue!(out, cursor::MoveTo(0, row), SetAttribute(attribute))?;
    write!(out, "{}", line.text)?;
    queue!(out, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // The terminal may be gone.
    let _ = execute!(io::stdout(), EndSynchronizedUpdate, cursor::Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// Restores the terminal before a panic is told, since the alternate screen would hide it.
fn restore_on_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        before(info);
    }));
}
