//! What the demo prints: a line for each event with the time since the start, and rows of ticks between them.
use std::io::{IsTerminal, Write, stdout};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Ticks in a row: four seconds.
const CELLS: usize = 40;
/// One tick.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Just so.
    Plain,
    /// As promised.
    Good,
    /// What hurts.
    Bad,
    /// Beside the story.
    Quiet,
    /// What pgmoor says.
    Pgmoor,
}

impl Tone {
    fn colour(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Quiet => "\x1b[2m",
            Self::Pgmoor => "\x1b[36m",
        }
    }
}

/// The terminal, or the file that stands for it.
pub(crate) struct Screen {
    began: Instant,
    coloured: bool,
    row: Mutex<Row>,
}

/// The row of ticks that is being written.
#[derive(Default)]
struct Row {
    cells: usize,
    statements: u64,
    /// The most that one tick has seen: full height.
    most: u64,
}

impl Screen {
    /// Colours only where somebody looks.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            coloured: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            row: Mutex::default(),
        }
    }

    /// The heading of a part.
    pub(crate) fn heading(&self, text: &str) {
        let mut row = self.lock();
        self.end_row(&mut row);
        let line = if self.coloured { format!("\n\x1b[1m{text}\x1b[0m\n") } else { format!("\n{text}\n") };
        put(&line);
    }

    /// An event, now.
    pub(crate) fn event(&self, tone: Tone, text: &str) {
        let mut row = self.lock();
        self.end_row(&mut row);
        put(&format!("{} {}\n", self.time(), self.painted(tone, text)));
    }

    /// A line without a time.
    pub(crate) fn line(&self, tone: Tone, text: &str) {
        let mut row = self.lock();
        self.end_row(&mut row);
        put(&format!("{}\n", self.painted(tone, text)));
    }

    /// Statements acknowledged in the last [`TICK`]; none means that all clients wait.
    pub(crate) fn tick(&self, statements: u64) {
        const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let mut row = self.lock();
        if row.cells == 0 {
            put(&format!("{} ", self.time()));
        }
        row.cells += 1;
        row.statements += statements;
        row.most = row.most.max(statements).max(1);
        let cell = if statements == 0 {
            self.painted(Tone::Bad, "·")
        } else {
            let height = usize::try_from((statements * 8).div_ceil(row.most)).unwrap_or(8).clamp(1, 8);
            self.painted(Tone::Good, HEIGHTS[height - 1].encode_utf8(&mut [0; 4]))
        };
        put(&cell);
        if row.cells == CELLS {
            self.end_row(&mut row);
        }
    }

    /// Ends the row of ticks, if there is one, with its rate.
    pub(crate) fn rest(&self) {
        self.end_row(&mut self.lock());
    }

    fn end_row(&self, row: &mut Row) {
        if row.cells == 0 {
            return;
        }
        let tenths = u64::try_from(row.cells).unwrap_or(1);
        let rate = row.statements * 10 / tenths;
        let room = " ".repeat(CELLS - row.cells);
        put(&format!("{room} {}\n", self.painted(Tone::Quiet, &format!("{rate:4} statements/s"))));
        *row = Row { most: row.most, ..Row::default() };
    }

    fn time(&self) -> String {
        let time = format!("{:6.1} s ", self.began.elapsed().as_secs_f64());
        self.painted(Tone::Quiet, &time)
    }

    fn painted(&self, tone: Tone, text: &str) -> String {
        match (self.coloured, tone.colour()) {
            (false, _) | (true, "") => text.to_owned(),
            (true, colour) => format!("{colour}{text}\x1b[0m"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader who has gone (a closed pipe) does not end the demo: it has to clean up.
fn put(text: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// "0.41 s".
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
