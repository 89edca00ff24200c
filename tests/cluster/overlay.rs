//! The manifests of deploy/ as a user of kustomize would adapt them: a namespace, image tags, patches.
use std::fs;
use std::path::{Path, PathBuf};

use super::kubectl::Kubectl;
use super::trouble::{Result, Trouble, Trying};

/// A kustomize overlay over one folder of deploy/.
pub struct Overlay {
    base: PathBuf,
    namespace: String,
    tags: Vec<(String, String)>,
    merges: Vec<String>,
    replacements: Vec<(String, String)>,
}

impl Overlay {
    /// Over `deploy/FOLDER` of this source tree, in this namespace.
    pub fn of(folder: &str, namespace: &str) -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
        Self { base, namespace: namespace.to_owned(), tags: Vec::new(), merges: Vec::new(), replacements: Vec::new() }
    }

    /// Another tag of an image.
    #[must_use]
    pub fn tag(mut self, image: &str, tag: &str) -> Self {
        self.tags.push((image.to_owned(), tag.to_owned()));
        self
    }

    /// A strategic merge patch: one object, YAML.
    #[must_use]
    pub fn merge(mut self, patch: impl Into<String>) -> Self {
        self.merges.push(patch.into());
        self
    }

    /// Replaces a text that stands in the manifests: for what a patch cannot reach, like an `apiVersion` that this
    /// release of the API server does not know, or a value inside a configuration file.
    #[must_use]
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        self.replacements.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Makes the namespace and applies all.
    pub async fn apply(&self, kubectl: &Kubectl) -> Result<String> {
        let namespace =
            serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        kubectl.apply(&namespace.to_string()).await?;
        let folder = tempfile::tempdir()?;
        self.write(folder.path()).trying(|| format!("an overlay over {}", self.base.display()))?;
        kubectl.run(&["apply".as_ref(), "-k".as_ref(), folder.path().as_os_str()]).await
    }

    /// Writes the overlay: the base copied beside it, as kustomize of old takes no base by an absolute path.
    fn write(&self, folder: &Path) -> Result<()> {
        let copy = folder.join("base");
        fs::create_dir(&copy)?;
        let mut left: Vec<&(String, String)> = self.replacements.iter().collect();
        let mut bound = Vec::new();
        for entry in fs::read_dir(&self.base)? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| path.is_file()) else {
                continue;
            };
            let mut text = fs::read_to_string(&path)?;
            for (from, to) in &self.replacements {
                if text.contains(from.as_str()) {
                    text = text.replace(from.as_str(), to);
                    left.retain(|replacement| replacement.0 != *from);
                }
            }
            fs::write(copy.join(name), &text)?;
            bound.extend(role_bindings(&text));
        }
        if let Some((from, _)) = left.first() {
            return Err(Trouble::new(format!("no manifest has the text {from:?}")));
        }
        let mut lines = vec![
            "apiVersion: kustomize.config.k8s.io/v1beta1".to_owned(),
            "kind: Kustomization".to_owned(),
            format!("namespace: {}", self.namespace),
            "bases: [base]".to_owned(),
        ];
        if !self.tags.is_empty() {
            lines.push("images:".to_owned());
            lines.extend(self.tags.iter().map(|(name, tag)| format!("- {{name: {name}, newTag: \"{tag}\"}}")));
        }
        let mut merges = self.merges.clone();
        merges.extend(bound.iter().map(|(name, account)| subject(name, account, &self.namespace)));
        if !merges.is_empty() {
            lines.push("patchesStrategicMerge:".to_owned());
        }
        for (number, patch) in merges.iter().enumerate() {
            fs::write(folder.join(format!("merge-{number}.yaml")), patch)?;
            lines.push(format!("- merge-{number}.yaml"));
        }
        Ok(fs::write(folder.join("kustomization.yaml"), lines.join("\n"))?)
    }
}

/// The RoleBindings in a file of manifests: their name and their ServiceAccount's, which deploy/ names alike.
fn role_bindings(text: &str) -> Vec<(String, String)> {
    let documents = text.split("\n---\n").filter(|document| document.contains("kind: RoleBinding"));
    let name = |document: &str| document.lines().find_map(|line| line.strip_prefix("  name: ")).map(str::to_owned);
    documents.filter_map(name).map(|name| (name.clone(), name)).collect()
}

/// kustomize of old leaves a subject's namespace as it is.
fn subject(binding: &str, account: &str, namespace: &str) -> String {
    serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": binding},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    })
    .to_string()
}
