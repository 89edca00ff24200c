//! A timeline's history: where each timeline it comes from was left, as PostgreSQL's `*.history` files tell it.

use std::collections::BTreeMap;

use crate::ids::{Lsn, Timeline};

/// Most lines a history file may have. A line is a promotion, with perhaps a blank line or a comment beside it.
const MOST_LINES: usize = 10_000;

/// Where one timeline comes from: its ancestors, and the place in the WAL at which each of them was left.
///
/// What was written on an ancestor from that place on is not part of this timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    timeline: Timeline,
    ended: BTreeMap<Timeline, Lsn>,
}

impl History {
    /// The history of timeline 1, which comes from nowhere and has no file.
    pub const fn first() -> Self {
        Self { timeline: Timeline(1), ended: BTreeMap::new() }
    }

    /// Reads the history file of `timeline`: a line for each ancestor with its number, the place where it was left and a
    /// reason in words; blank lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// The text is not such a file, or was cut off within a line: says in which line, and what is wrong there.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, String> {
        // PostgreSQL ends every line it writes; what does not was cut.
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(format!("line {}: it has no end, the file was cut off", text.lines().count()));
        }
        let mut parents: Vec<(Timeline, Lsn)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            if at == MOST_LINES {
                return Err(format!("line {number}: more than {MOST_LINES} lines"));
            }
            let Some((parent, end)) = entry(line).map_err(|fault| format!("line {number}: {fault}"))? else {
                continue;
            };
            if let Some((last, _)) = parents.last()
                && parent <= *last
            {
                return Err(format!("line {number}: timeline {parent} does not follow timeline {last}"));
            }
            if parent >= timeline {
                return Err(format!("line {number}: timeline {parent} cannot be an ancestor of timeline {timeline}"));
            }
            parents.push((parent, end));
        }
        if parents.is_empty() && timeline > Timeline(1) {
            return Err(format!("line 1: no ancestor of timeline {timeline} is named"));
        }
        // A recovery aimed at timeline 2 that stopped before the place where 2 left 1 writes 2 as the parent all the same:
        // 1 was then left where 2 is said to have been.
        let mut least = Lsn(u64::MAX);
        let left = parents.into_iter().rev().map(|(parent, end)| {
            least = least.min(end);
            (parent, least)
        });
        Ok(Self { timeline, ended: left.collect() })
    }

    /// Whose history this is.
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Where this ancestor was left: the WAL before it is shared, the WAL from there on is not. `None` when `timeline` is no
    /// ancestor, or is the timeline itself.
    pub fn ended(&self, timeline: Timeline) -> Option<Lsn> {
        self.ended.get(&timeline).copied()
    }

    /// Every ancestor and where it was left, the oldest first.
    pub fn ancestors(&self) -> impl Iterator<Item = (Timeline, Lsn)> + '_ {
        self.ended.iter().map(|(timeline, end)| (*timeline, *end))
    }
}

/// What one line says: nothing, or an ancestor and where it was left.
fn entry(line: &str) -> Result<Option<(Timeline, Lsn)>, String> {
    let mut words = line.split_ascii_whitespace();
    let Some(first) = words.next().filter(|word| !word.starts_with('#')) else {
        return Ok(None);
    };
    let number = first.bytes().all(|byte| byte.is_ascii_digit()).then(|| first.parse().ok()).flatten();
    let Some(parent) = number.filter(|number| *number > 0) else {
        return Err(format!("{:?} is not a timeline", brief(first)));
    };
    let Some(place) = words.next() else {
        return Err(format!("it does not say where timeline {parent} was left"));
    };
    let is_hex = place.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'/');
    match place.parse() {
        Ok(end) if is_hex => Ok(Some((Timeline(parent), end))),
        Ok(_) | Err(_) => Err(format!("{:?} is not an LSN (expected X/Y in hexadecimal)", brief(place))),
    }
}

/// Enough of a word to recognise it by.
fn brief(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 writes them: a blank line after each ancestor but the last.
    const FIFTH: &str = "\
1\t0/3015F90\tno recovery target specified\n\n\
2\t0/60252A0\tbefore 2026-11-23 10:11:12.5+00\n\n\
4\tA/1F\tat restore point \"rp 1\"\n";

    fn lines(history: &History) -> String {
        let lines: Vec<String> = history.ancestors().map(|(timeline, end)| format!("{timeline} {end}")).collect();
        lines.join(", ")
    }

    #[test]
    fn ancestors_were_left_where_the_file_says() {
        let history = History::parse(Timeline(5), FIFTH).unwrap();
        assert_eq!(history.timeline(), Timeline(5));
        assert_eq!(lines(&history), "1 0/3015F90, 2 0/60252A0, 4 A/1F");
        for (timeline, end) in
            [(0, None), (1, Some(0x301_5F90)), (2, Some(0x602_52A0)), (3, None), (4, Some(0xA_0000_001F)), (5, None)]
        {
            assert_eq!(history.ended(Timeline(timeline)), end.map(Lsn), "{timeline}");
        }
        assert_eq!((History::first().timeline(), History::first().ended(Timeline(1))), (Timeline(1), None));
        assert_eq!(History::parse(Timeline(1), "").unwrap(), History::first());
    }

    #[test]
    fn what_a_file_may_look_like() {
        for (text, want) in [
            ("1\t0/5\t\n", "1 0/5"),
            ("1\t0/5\n", "1 0/5"),
            ("1 0/5 by hand\n", "1 0/5"),
            ("# made by hand\n\n  1\t0/ABCDEF01\tx\r\n#2\t0/1\n", "1 0/ABCDEF01"),
            ("1\tFFFFFFFF/FFFFFFFF\tthe last place\n", "1 FFFFFFFF/FFFFFFFF"),
            ("2\t0/5\tthe first ancestor need not be 1\n", "2 0/5"),
            // A recovery to a place before the switch from 1 to 2, aimed at 2: PostgreSQL writes this file, and 1 was left
            // at 0/6000090. What was written on it from there to 0/60252A0 is not part of 9.
            ("1\t0/60252A0\tnone\n\n2\t0/6000090\tat restore point \"rp\"\n", "1 0/6000090, 2 0/6000090"),
            ("1\t0/7\ta\n2\t0/9\tb\n3\t0/8\tc\n", "1 0/7, 2 0/8, 3 0/8"),
        ] {
            assert_eq!(
                History::parse(Timeline(9), text).map(|history| lines(&history)).as_deref(),
                Ok(want),
                "{text:?}"
            );
        }
    }

    #[test]
    fn faults_name_their_line() {
        for (text, want) in [
            ("", "line 1: no ancestor of timeline 9 is named"),
            ("\n# nothing\n", "line 1: no ancestor of timeline 9 is named"),
            ("<html>\n", "line 1: \"<html>\" is not a timeline"),
            ("1\t0/5\tx\n\nx\t0/6\ty\n", "line 3: \"x\" is not a timeline"),
            ("0\t0/5\tx\n", "line 1: \"0\" is not a timeline"),
            ("-1\t0/5\tx\n", "line 1: \"-1\" is not a timeline"),
            ("+1\t0/5\tx\n", "line 1: \"+1\" is not a timeline"),
            ("4294967296\t0/5\tx\n", "line 1: \"4294967296\" is not a timeline"),
            ("\u{fffd}\u{0}\n", "line 1: \"\u{fffd}\\0\" is not a timeline"),
            ("1\n", "line 1: it does not say where timeline 1 was left"),
            ("1\t5\tx\n", "line 1: \"5\" is not an LSN (expected X/Y in hexadecimal)"),
            ("1\t0/+5\tx\n", "line 1: \"0/+5\" is not an LSN (expected X/Y in hexadecimal)"),
            ("1\t0/100000000\tx\n", "line 1: \"0/100000000\" is not an LSN (expected X/Y in hexadecimal)"),
            ("1\t0/\tx\n", "line 1: \"0/\" is not an LSN (expected X/Y in hexadecimal)"),
            ("1\t0/5\tx\n1\t0/6\tx\n", "line 2: timeline 1 does not follow timeline 1"),
            ("2\t0/5\tx\n1\t0/6\tx\n", "line 2: timeline 1 does not follow timeline 2"),
            ("1\t0/5\tx\n9\t0/6\tx\n", "line 2: timeline 9 cannot be an ancestor of timeline 9"),
            ("10\t0/5\tx\n", "line 1: timeline 10 cannot be an ancestor of timeline 9"),
            ("1\t0/5\tx\n\n2\t0/6\ty", "line 3: it has no end, the file was cut off"),
        ] {
            assert_eq!(History::parse(Timeline(9), text).unwrap_err(), want, "{text:?}");
        }
        let first = History::parse(Timeline(1), "1\t0/5\tx\n").unwrap_err();
        assert_eq!(first, "line 1: timeline 1 cannot be an ancestor of timeline 1");
        let long = History::parse(Timeline(9), &format!("{}\n", "x".repeat(1_000_000))).unwrap_err();
        assert!(long.len() < 100, "{long}");
    }

    /// A cut is a fault, but for one between two lines: there the ancestors that are left say what they said.
    #[test]
    fn cut_at_every_byte() {
        let whole = History::parse(Timeline(5), FIFTH).unwrap();
        for at in 0..FIFTH.len() {
            let text = &FIFTH[..at];
            match History::parse(Timeline(5), text) {
                Ok(history) => {
                    assert!(text.ends_with('\n'), "{text:?}");
                    assert!(history.ancestors().all(|(timeline, end)| whole.ended(timeline) == Some(end)), "{text:?}");
                }
                Err(fault) => {
                    assert!(fault.starts_with("line ") && (at == 0 || !text.ends_with('\n')), "{at}: {fault}")
                }
            }
        }
    }

    #[test]
    fn long_files_end_somewhere() {
        let text =
            |lines: u32| -> String { (1..=lines).map(|number| format!("{number}\t0/{number:X}\tx\n")).collect() };
        assert_eq!(History::parse(Timeline(u32::MAX), &text(10_000)).unwrap().ancestors().count(), 10_000);
        let fault = History::parse(Timeline(u32::MAX), &text(10_001)).unwrap_err();
        assert_eq!(fault, "line 10001: more than 10000 lines");
    }
}
