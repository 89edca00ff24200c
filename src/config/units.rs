//! Durations and sizes as people write them: `250ms`, `10s`, `5m`, `1h`; `512B`, `64KiB`, `1MiB`, `1GiB`.

use std::time::Duration;

/// Longer than any wait makes sense, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads a duration, or says what is wrong with it.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => {
            return Err(format!("{text:?} has no unit; write it as \"{text}s\" (ms, s, m or h)"));
        }
        _ => {
            return Err(not(text, "a duration", "\"250ms\", \"10s\", \"5m\" or \"1h\""));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| not(text, "a duration of at most a year", "\"250ms\", \"10s\", \"5m\" or \"1h\""))
}

/// Reads a size in bytes, or says what is wrong with it.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let bytes: usize = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => {
            return Err(format!("{text:?} has no unit; write it as \"{text}KiB\" (B, KiB, MiB or GiB)"));
        }
        _ => {
            return Err(not(text, "a size", "\"512B\", \"64KiB\", \"1MiB\" or \"1GiB\""));
        }
    };
    number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(bytes))
        .ok_or_else(|| not(text, "a size", "\"512B\", \"64KiB\", \"1MiB\" or \"1GiB\""))
}

/// Writes a size the way it is read, in the largest unit that has no remainder.
pub(super) fn show_size(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match whole {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn not(text: &str, what: &str, examples: &str) -> String {
    format!("{text:?} is not {what}; write it as {examples}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_each_unit_and_nothing_else() {
        let good = [("0s", 0), ("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000)];
        for (text, milliseconds) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "10", "10S", "10 s", "-1s", "1.5s", "1d", "9000h", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for (text, bytes) in [("0B", 0), ("1000B", 1000), ("64KiB", 65_536), ("1MiB", 1 << 20), ("3GiB", 3 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        for text in ["", "KiB", "64", "64kb", "64KB", "1.5MiB", "-1B", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
