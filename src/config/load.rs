//! From a file, or its text, to a configuration: the only place that meets the file system and the environment.

use std::io;
use std::path::Path;

use super::build;
use super::complain::ConfigError;
use super::keys::Book;
use super::read::{Section, Source};
use super::{Config, Users};

impl Config {
    /// Reads the file, the files it names and the environment variables it names.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { file: file.clone(), reason: error.to_string() })?;
        let env = |name: &str| std::env::var(name).ok();
        Self::parse(&text, &file, &env, &|path| std::fs::read_to_string(path))
    }

    /// The same from a text; `name` is the file's, for complaints and as the start of relative paths.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(
        text: &str,
        name: &str,
        env: &dyn Fn(&str) -> Option<String>,
        files: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let source = Source { name, text, book: Book::Config, env, files };
        let tree = source.tree()?;
        build::config(&source, &Section::top(source, &tree)?)
    }
}

impl Users {
    /// Reads the text of a users file; `name` is the file's.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(
        text: &str,
        name: &str,
        env: &dyn Fn(&str) -> Option<String>,
        files: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let source = Source { name, text, book: Book::Users, env, files };
        build::users(&source)
    }
}
