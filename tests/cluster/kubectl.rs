//! kubectl with its output taken: what a person would type, and its answer or a clear error.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::trouble::{Result, Trouble, Trying};

/// kubectl for one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// kubectl at `program`, speaking as `kubeconfig` says; its caches go below `home`.
    pub fn new(program: &Path, kubeconfig: &Path, home: &Path) -> Self {
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// The same, as another kubeconfig says.
    #[must_use]
    pub fn with(&self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), ..self.clone() }
    }

    /// Runs it and returns its standard output; fails with what it wrote on standard error. Ends after a minute.
    pub async fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        self.run_with(args, "").await
    }

    /// `kubectl apply -f -` of these manifests (YAML or JSON).
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.run_with(&["apply", "-f", "-"], manifests).await
    }

    /// [`Self::run`] with a standard input.
    pub async fn run_with<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Result<String> {
        let words: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        let told = format!("kubectl {}", words.join(" "));
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let run = async {
            let mut process = command.spawn()?;
            if let Some(mut stdin) = process.stdin.take() {
                // It may have failed before it read this; its own words then say why.
                drop(stdin.write_all(input.as_bytes()).await);
            }
            process.wait_with_output().await
        };
        let output = match tokio::time::timeout(Duration::from_secs(60), run).await {
            Ok(output) => output.trying(|| told.clone())?,
            Err(_) => return Err(Trouble::new(format!("{told}: no end after a minute"))),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Trouble::new(format!("{told}: {}: {}", output.status, said.trim())))
    }
}
