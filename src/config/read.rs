//! What was written: a TOML text as sections and values that know their place, their key and its default.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::complain::{ConfigError, place};
use super::expand::expand;
use super::keys::{Absent, Book, Key, join};
use super::units;

/// A text with its name and the outside world it may refer to.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) book: Book,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) files: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl<'a> Source<'a> {
    /// The text as a tree.
    pub(super) fn tree(&self) -> Result<DeTable<'a>, ConfigError> {
        match DeTable::parse(self.text) {
            Ok(tree) => Ok(tree.into_inner()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                Err(self.wrong(at, None, error.message().replace('\n', ", ")))
            }
        }
    }

    /// A path that stands in this text: a relative one starts at the text's own folder.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        match Path::new(self.name).parent() {
            Some(folder) => folder.join(written),
            None => PathBuf::from(written),
        }
    }

    fn wrong(&self, at: usize, key: Option<&str>, problem: impl Into<String>) -> ConfigError {
        let (line, column) = place(self.text, at);
        ConfigError::Wrong {
            file: self.name.to_owned(),
            line,
            column,
            key: key.map(str::to_owned),
            problem: problem.into(),
        }
    }
}

/// One section, written or not.
pub(super) struct Section<'a> {
    source: Source<'a>,
    path: String,
    keys: &'static [Key],
    table: Option<&'a DeTable<'a>>,
    /// Where it begins: the place of complaints about what is not written.
    at: usize,
}

impl<'a> Section<'a> {
    /// The whole file. Refuses keys that the book does not have.
    pub(super) fn top(source: Source<'a>, table: &'a DeTable<'a>) -> Result<Self, ConfigError> {
        Self::new(source, String::new(), Some(table), 0)
    }

    fn new(source: Source<'a>, path: String, table: Option<&'a DeTable<'a>>, at: usize) -> Result<Self, ConfigError> {
        let keys = source.book.section(&path);
        for written in table.into_iter().flat_map(DeTable::keys) {
            let name = written.get_ref().as_ref();
            if !keys.iter().any(|key| key.name == name) {
                let problem = source.book.unknown(&path, name);
                return Err(source.wrong(written.span().start, Some(&join(&path, name)), problem));
            }
        }
        Ok(Self { source, path, keys, table, at })
    }

    /// A complaint about the section as a whole, or about a key that is not written.
    pub(super) fn wrong(&self, name: &str, problem: impl Into<String>) -> ConfigError {
        let key = if name.is_empty() { self.path.clone() } else { join(&self.path, name) };
        self.source.wrong(self.at, Some(&key), problem)
    }

    /// Whether the section is written at all.
    pub(super) fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// The value that is written; `None` leaves the default aside.
    pub(super) fn written(&self, name: &str) -> Option<Value<'a>> {
        let value = self.table?.get(name)?;
        Some(self.value(name, value.span().start, value.get_ref().clone()))
    }

    /// The value that holds: the written one, else the default.
    pub(super) fn value_of(&self, name: &str) -> Result<Value<'a>, ConfigError> {
        if let Some(value) = self.written(name) {
            return Ok(value);
        }
        match self.keys.iter().find(|key| key.name == name).map(|key| key.absent) {
            Some(Absent::Means(default)) => match DeValue::parse(default) {
                Ok(value) => Ok(self.value(name, self.at, value.into_inner())),
                Err(error) => Err(self.wrong(name, error.message())),
            },
            Some(Absent::Refused(example)) => Err(self.wrong(name, format!("is missing; write {name} = {example}"))),
            Some(Absent::Nothing | Absent::Section) | None => Err(self.wrong(name, "is missing")),
        }
    }

    /// A section within this one.
    pub(super) fn section(&self, name: &str) -> Result<Self, ConfigError> {
        let path = join(&self.path, name);
        match self.table.and_then(|table| table.get(name)) {
            None => Self::new(self.source, path, None, self.at),
            Some(value) => self.table_at(path, value),
        }
    }

    /// The sections of an array of them (`[[cluster]]`).
    pub(super) fn sections(&self, name: &str) -> Result<Vec<Self>, ConfigError> {
        let path = join(&self.path, name);
        let Some(value) = self.table.and_then(|table| table.get(name)) else {
            return Ok(Vec::new());
        };
        match value.get_ref().as_array() {
            None => Err(self.source.wrong(
                value.span().start,
                Some(&path),
                format!("there may be several; write it as [[{path}]]"),
            )),
            Some(items) => items.iter().map(|item| self.table_at(path.clone(), item)).collect(),
        }
    }

    fn table_at(&self, path: String, value: &'a Spanned<DeValue<'a>>) -> Result<Self, ConfigError> {
        let at = value.span().start;
        match value.get_ref().as_table() {
            Some(table) => Self::new(self.source, path, Some(table), at),
            None => Err(self.source.wrong(at, Some(&path), "is a section, not a value")),
        }
    }

    fn value(&self, name: &str, at: usize, value: DeValue<'a>) -> Value<'a> {
        Value { source: self.source, key: join(&self.path, name), at, value }
    }
}

/// One value that knows its key and its place.
pub(super) struct Value<'a> {
    source: Source<'a>,
    key: String,
    at: usize,
    value: DeValue<'a>,
}

impl<'a> Value<'a> {
    /// A complaint about this value.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> ConfigError {
        self.source.wrong(self.at, Some(&self.key), problem)
    }

    /// A string, its variables put in.
    pub(super) fn text(&self) -> Result<String, ConfigError> {
        let Some(text) = self.value.as_str() else {
            return Err(self.kind("a string"));
        };
        let text = expand(text, self.source.env).map_err(|problem| self.wrong(problem))?;
        if text.contains('\0') {
            return Err(self.wrong("has a NUL character in it"));
        }
        Ok(text)
    }

    /// A string with something in it.
    pub(super) fn word(&self) -> Result<String, ConfigError> {
        let text = self.text()?;
        if text.is_empty() {
            return Err(self.wrong("is empty"));
        }
        Ok(text)
    }

    /// A string, or a list of them.
    pub(super) fn list(self) -> Result<Vec<Self>, ConfigError> {
        if self.value.is_str() {
            return Ok(vec![self]);
        }
        let Some(items) = self.value.as_array() else {
            return Err(self.kind("a string or a list of strings"));
        };
        Ok(items
            .iter()
            .map(|item| Self {
                source: self.source,
                key: self.key.clone(),
                at: item.span().start,
                value: item.get_ref().clone(),
            })
            .collect())
    }

    /// The path of a file.
    pub(super) fn path(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.source.path(&self.word()?))
    }

    /// What stands in the file this value names.
    pub(super) fn file(&self) -> Result<(PathBuf, String), ConfigError> {
        let path = self.path()?;
        match (self.source.files)(&path) {
            Ok(text) => Ok((path, text)),
            Err(error) => Err(self.wrong(format!("{} cannot be read: {error}", path.display()))),
        }
    }

    /// A duration; zero only where `zero` allows it.
    pub(super) fn duration(&self, zero: Zero) -> Result<Duration, ConfigError> {
        let text = match self.value.as_integer() {
            Some(number) => number.to_string(),
            None if self.value.is_str() => self.text()?,
            None => return Err(self.kind("a duration such as \"10s\"")),
        };
        let duration = units::duration(&text).map_err(|problem| self.wrong(problem))?;
        match zero {
            Zero::Refused if duration.is_zero() => Err(self.wrong("must be longer than nothing")),
            Zero::Refused | Zero::Allowed => Ok(duration),
        }
    }

    /// A size in bytes.
    pub(super) fn size(&self, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let text = match self.value.as_integer() {
            Some(number) => number.to_string(),
            None if self.value.is_str() => self.text()?,
            None => return Err(self.kind("a size such as \"64KiB\"")),
        };
        let size = units::size(&text).map_err(|problem| self.wrong(problem))?;
        if range.contains(&size) {
            return Ok(size);
        }
        Err(self.wrong(format!(
            "{text:?} is out of range; write a size from \"{}\" to \"{}\"",
            units::show_size(*range.start()),
            units::show_size(*range.end())
        )))
    }

    /// A whole number.
    pub(super) fn count(&self, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let Some(number) = self.value.as_integer() else {
            return Err(self.kind("a whole number"));
        };
        let radix = number.radix();
        usize::from_str_radix(number.as_str(), radix).ok().filter(|count| range.contains(count)).ok_or_else(|| {
            self.wrong(format!("{number} is out of range; write a number from {} to {}", range.start(), range.end()))
        })
    }

    /// True or false.
    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        self.value.as_bool().ok_or_else(|| self.kind("true or false"))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text()?;
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(format!("{text:?} is not one of {}", words.join(", ")))
        })
    }

    fn kind(&self, wanted: &str) -> ConfigError {
        let article = match self.value.type_str() {
            kind @ ("integer" | "array") => format!("an {kind}"),
            kind => format!("a {kind}"),
        };
        self.wrong(format!("must be {wanted}, not {article}"))
    }
}

/// Whether a duration may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    Allowed,
    Refused,
}
