//! The interactive view: which machines it shows, in which order, and one machine's story. Pure:
//! keys and reports in, lines out.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::columns::{name, stage};
use super::table::{Line, LineKind, Size, lines, notices, reason, stuck_first, summary};
use super::text::{printable, wrap};
use crate::machines::StatusReport;
use crate::machines::status::{MachineStatus, StoryLine};

/// Longest filter in characters.
const FILTER_MAX: usize = 60;

/// A key that the view knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// Order of the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    /// Those that need somebody first, then the latest boot.
    #[default]
    Stuck,
    Name,
    Stage,
    /// The slowest first of those that load.
    Rate,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Order::Stuck => Order::Name,
            Order::Name => Order::Stage,
            Order::Stage => Order::Rate,
            Order::Rate => Order::Stuck,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Order::Stuck => "stuck first",
            Order::Name => "by name",
            Order::Stage => "by stage",
            Order::Rate => "slowest first",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    List,
    /// A filter is typed.
    Filter,
    /// One machine's story is open.
    Story,
}

/// State of the view.
#[derive(Debug, Default)]
pub(super) struct View {
    report: Option<StatusReport>,
    /// Reason why the last report could not be had.
    failure: Option<String>,
    mode: Mode,
    filter: String,
    order: Order,
    /// Identity of the selected machine, which keeps it when others come and go.
    selected: Option<String>,
    /// First line that is shown.
    top: usize,
    /// Lines of the log about the machine with this identity.
    log: Option<(String, Vec<StoryLine>)>,
}

/// A line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScreenLine {
    pub text: String,
    pub style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Selected,
    Alarm,
}

impl View {
    /// Takes a report, or the reason why there is none; the last report stays then.
    pub(super) fn update(&mut self, report: Result<StatusReport, String>) {
        match report {
            Ok(report) => (self.report, self.failure) = (Some(report), None),
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// Takes the lines of the log about a machine. While there are no reports, the last lines stay.
    pub(super) fn update_log(&mut self, log: Option<(String, Vec<StoryLine>)>) {
        if self.failure.is_none() {
            self.log = log;
        }
    }

    /// Returns the identity of the machine whose story is shown.
    pub(super) fn shown_story(&self) -> Option<String> {
        self.selected.clone().filter(|_| self.mode == Mode::Story)
    }

    /// Handles a key; returns false if it ends the view. A page has `height` lines.
    pub(super) fn handle(&mut self, key: Key, height: usize) -> bool {
        match (self.mode, key) {
            (Mode::Filter, key) => self.edit_filter(key),
            (Mode::Story, Key::Escape | Key::Enter | Key::Char('q')) => self.leave_story(),
            (Mode::Story, Key::Up | Key::Char('k')) => self.top = self.top.saturating_sub(1),
            (Mode::Story, Key::Down | Key::Char('j')) => self.top += 1,
            (Mode::Story, Key::PageUp) => self.top = self.top.saturating_sub(height),
            (Mode::Story, Key::PageDown) => self.top += height,
            (Mode::Story, _) => {}
            (Mode::List, Key::Char('q')) => return false,
            // The first Escape takes the filter back.
            (Mode::List, Key::Escape) if self.filter.is_empty() => return false,
            (Mode::List, Key::Escape) => self.filter.clear(),
            (Mode::List, Key::Char('/')) => self.mode = Mode::Filter,
            (Mode::List, Key::Char('s')) => self.order = self.order.next(),
            (Mode::List, Key::Enter) if self.selected_machine().is_some() => {
                (self.mode, self.top) = (Mode::Story, 0);
            }
            (Mode::List, key) => self.select(key, height),
        }
        true
    }

    fn edit_filter(&mut self, key: Key) {
        match key {
            Key::Char(c) if self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            Key::Backspace => drop(self.filter.pop()),
            Key::Escape => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            Key::Enter => self.mode = Mode::List,
            _ => {}
        }
    }

    fn leave_story(&mut self) {
        (self.mode, self.top) = (Mode::List, 0);
    }

    /// Moves the selection.
    fn select(&mut self, key: Key, height: usize) {
        let machines = self.machines();
        let Some(last) = machines.len().checked_sub(1) else { return };
        let now = self.position(&machines);
        let next = match key {
            Key::Up | Key::Char('k') => now.unwrap_or(0).saturating_sub(1),
            Key::Down | Key::Char('j') => now.map_or(0, |now| now + 1),
            Key::PageUp => now.unwrap_or(0).saturating_sub(height / 2),
            Key::PageDown => now.unwrap_or(0) + height / 2,
            Key::Home => 0,
            Key::End => last,
            _ => return,
        };
        self.selected = machines.get(next.min(last)).map(|machine| identity(machine));
    }

    fn position(&self, machines: &[&MachineStatus]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        machines.iter().position(|machine| identity(machine) == *selected)
    }

    fn selected_machine(&self) -> Option<&MachineStatus> {
        let machines = self.machines();
        machines.get(self.position(&machines)?).copied()
    }

    /// Returns the machines that pass the filter, in order.
    fn machines(&self) -> Vec<&MachineStatus> {
        let Some(report) = &self.report else { return Vec::new() };
        let mut machines = stuck_first(&report.machines);
        machines.retain(|machine| passes(machine, &self.filter, report.time));
        match self.order {
            Order::Stuck => {}
            Order::Name => machines.sort_by_key(|machine| name(machine).to_lowercase()),
            Order::Stage => machines.sort_by_key(|machine| machine.stage),
            Order::Rate => machines.sort_by_key(|machine| match machine.rate {
                0 => (Reverse(false), 0),
                rate => (Reverse(true), rate),
            }),
        }
        machines
    }

    /// Returns the lines of a screen, as many as it has.
    pub(super) fn screen(&mut self, size: Size) -> Vec<ScreenLine> {
        let mut screen = match (&self.report, self.mode) {
            (None, _) => vec![plain(self.failure.clone().unwrap_or_default())],
            (Some(_), Mode::Story) => self.story(size),
            (Some(_), Mode::List | Mode::Filter) => self.list(size),
        };
        let cut = |text: String| text.chars().take(size.width).collect();
        screen.truncate(size.height.saturating_sub(1));
        screen.resize(size.height.saturating_sub(1), plain(String::new()));
        screen.push(self.foot());
        screen.into_iter().map(|line| ScreenLine { text: cut(line.text), ..line }).collect()
    }

    fn list(&mut self, size: Size) -> Vec<ScreenLine> {
        let Some(report) = &self.report else { return Vec::new() };
        let machines = self.machines();
        let selected = self.position(&machines);
        let mut screen = self.alarm();
        screen.extend(notices(report).map(|notice| styled(notice, Style::Alarm)));
        screen.extend(wrap(&self.counts(report, machines.len()), size.width).into_iter().map(plain));
        let mut rows = lines(&machines, report.time, size.width).into_iter();
        screen.extend(rows.next().map(|heading| styled(heading.text, Style::Bold)));
        let rows: Vec<_> = rows.collect();
        let room = size.height.saturating_sub(screen.len() + 1);
        let top = scroll(self.top, room, &rows, selected);
        screen.extend(rows.into_iter().skip(top).map(|line| screen_line(line, selected)));
        self.top = top;
        screen
    }

    /// Returns the line that says why the report is old, if it is.
    fn alarm(&self) -> Vec<ScreenLine> {
        self.failure.iter().map(|failure| styled(failure.clone(), Style::Alarm)).collect()
    }

    fn counts(&self, report: &StatusReport, shown: usize) -> String {
        let all = &report.machines;
        match all.len() {
            0 => "no machine seen yet".to_owned(),
            count if shown < count => format!("{}; {shown} shown", summary(all)),
            _ => summary(all),
        }
    }

    fn foot(&self) -> ScreenLine {
        let text = match self.mode {
            Mode::Filter => format!("/{}_   Enter: keep   Esc: all machines", self.filter),
            Mode::Story => "Esc: back   Up, Down: scroll   q: back".to_owned(),
            Mode::List => {
                let filter = if self.filter.is_empty() { "filter" } else { &self.filter };
                format!("q: quit   /: {filter}   s: {}   Up, Down, Enter: story", self.order.word())
            }
        };
        styled(printable(&text), Style::Bold)
    }

    fn story(&mut self, size: Size) -> Vec<ScreenLine> {
        let now = self.report.as_ref().map_or(0, |report| report.time);
        let mut screen = self.alarm();
        let Some(machine) = self.selected_machine() else {
            screen.push(plain("machine gone".to_owned()));
            return screen;
        };
        let mut lines = story(machine, now, size.width);
        let log =
            self.log.as_ref().filter(|(shown, log)| Some(shown) == self.selected.as_ref() && !log.is_empty());
        if let Some((_, log)) = log {
            lines.push(plain(String::new()));
            lines.push(styled("Log of this boot".to_owned(), Style::Bold));
            lines.extend(log.iter().flat_map(|line| event(line, machine.since, size.width)));
        }
        // A line of the page stays in sight.
        self.top = self.top.min(lines.len().saturating_sub(1));
        screen.extend(lines.into_iter().skip(self.top));
        screen
    }
}

/// Returns the page of one machine: who it is, where it stands and why, and each step with its time.
fn story(machine: &MachineStatus, now: i64, width: usize) -> Vec<ScreenLine> {
    let addresses: Vec<_> = machine.addresses.iter().map(ToString::to_string).collect();
    let mac = machine.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let firmware = machine.firmware.as_deref().map(printable).unwrap_or_default();
    let mut screen = vec![
        styled(name(machine), Style::Bold),
        plain(format!("{mac}  {}  {firmware}", addresses.join(", "))),
        plain(format!("{}, boot {} since the start of the server", stage(machine, now), machine.boots)),
    ];
    if let Some(next) = &machine.next {
        screen.push(plain(format!("next boot: {}", printable(&next.to_string()))));
    }
    if let Some(progress) = &machine.progress {
        let of = progress.path.as_deref().map_or("root file system".to_owned(), printable);
        screen.push(plain(format!("{} % of {of}, {} kB/s", progress.percent, machine.rate / 1000)));
    }
    let reason = reason(machine).into_iter().flat_map(|reason| wrap(&printable(&reason), width));
    screen.extend(reason.map(|line| styled(line, Style::Alarm)));
    screen.extend(machine.advice.iter().map(|line| plain(format!("  {}", printable(line)))));
    screen.push(plain(String::new()));
    screen.extend(machine.story.iter().flat_map(|line| event(line, machine.since, width)));
    screen
}

/// Returns an event with its time, and its time since the start of the boot.
fn event(line: &StoryLine, since: i64, width: usize) -> Vec<ScreenLine> {
    let text = match line.times {
        1 => printable(&line.text),
        times => format!("{} ({times} times)", printable(&line.text)),
    };
    let head = format!("{}  {:>6}  ", clock(line.time), format!("+{}s", line.time - since));
    let mut wrapped = wrap(&text, width.saturating_sub(head.len())).into_iter();
    let first = plain(format!("{head}{}", wrapped.next().unwrap_or_default()));
    let rest = wrapped.map(|rest| plain(format!("{:1$}{rest}", "", head.len())));
    [first].into_iter().chain(rest).collect()
}

/// Returns the time of day in UTC.
fn clock(time: i64) -> String {
    let time = Timestamp::from_second(time).map(|time| time.to_string()).unwrap_or_default();
    // RFC 3339: the date has ten characters before the `T`.
    time.get(11..19).unwrap_or("--:--:--").to_owned()
}

/// Returns the first row to show, so that the selected machine is among them.
fn scroll(top: usize, room: usize, rows: &[Line], selected: Option<usize>) -> usize {
    let top = top.min(rows.len().saturating_sub(room));
    let is_selected = |line: &Line| matches!(line.kind, LineKind::Row(number) if Some(number) == selected);
    match rows.iter().position(is_selected) {
        Some(at) if at < top => at,
        Some(at) if at >= top + room => (at + 1).saturating_sub(room),
        _ => top,
    }
}

fn screen_line(line: Line, selected: Option<usize>) -> ScreenLine {
    let style = match line.kind {
        LineKind::Row(number) if Some(number) == selected => Style::Selected,
        LineKind::Reason => Style::Alarm,
        LineKind::Heading => Style::Bold,
        LineKind::Row(_) => Style::Plain,
    };
    styled(line.text, style)
}

fn plain(text: String) -> ScreenLine {
    styled(text, Style::Plain)
}

const fn styled(text: String, style: Style) -> ScreenLine {
    ScreenLine { text, style }
}

/// Returns text that tells a machine from all others.
fn identity(machine: &MachineStatus) -> String {
    let address = || machine.addresses.first().map(ToString::to_string);
    machine.mac.map(|mac| mac.to_string()).or_else(address).unwrap_or_default()
}

/// Returns whether any text of a machine contains the filter, in upper or lower case.
fn passes(machine: &MachineStatus, filter: &str, now: i64) -> bool {
    let filter = filter.to_lowercase();
    let addresses = machine.addresses.iter().map(ToString::to_string);
    let mut texts = [name(machine), stage(machine, now), identity(machine)]
        .into_iter()
        .chain(addresses)
        .chain(machine.image.clone())
        .chain(machine.firmware.clone())
        .chain(reason(machine));
    texts.any(|text| text.to_lowercase().contains(&filter))
}

#[cfg(test)]
mod tests;
