//! Loading: from layers to typed sections.
//!
//! ```text
//! types ──► JSON Schema ────────┬────────────────┬──────────────┐
//! files, variables, code ─► layers ─► check ─► merge ─► resolve ─► validate ─► types
//!                               │ unknown keys,      │ references,  │ missing,   │ refusals
//!                               │ secrets in files   │ types        │ unexpected │ of types
//!                               └──────────────► one list of faults ◄────────────┘
//! ```
//!
//! No step ends at its first fault. Each one continues with what it could read, so that one report
//! has all faults. A section that is known to be invalid is not read into its type, whose error
//! would repeat the fault in other words.
//!
//! Everything is read at one moment: the variables are copied first, and files are read once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Fault, FaultKind, Origin, SettingsError,
    check::{check, validate},
    entries::{Entries, entries},
    resolve::{Resolved, resolve},
    schema::Schema,
    section::{AnySection, Refusal, Section, read},
    sections::Common,
    sources::{CONFIG_DIR, Content, ENV, Environment, Meaning, Node, display, files, meaning},
    unread::Unread,
};

/// The folder of the files, relative to the current one.
const FOLDER: &str = "config";

/// The settings of a service: the sections that every service has, and those of your own types.
///
/// `Debug` writes the values with their origins, without secrets.
#[derive(Clone)]
pub struct Settings {
    /// The value of `AIOS_ENV`.
    pub(super) environment: Option<String>,
    /// The sections that every service has.
    pub(super) common: Common,
    /// The sections of the program, by name.
    pub(super) sections: BTreeMap<String, AnySection>,
    /// The values with their origins, sorted by key.
    pub(super) entries: Entries,
    /// Sections and variables that were left unread.
    pub(super) unread: Unread,
    /// How to load them again.
    pub(super) source: Arc<SettingsBuilder>,
}

impl Settings {
    /// Loads the settings that every service has, from the folder `config` and the environment of the
    /// process. The same as `Settings::builder().load()`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with all faults of all layers.
    pub fn load() -> Result<Self, SettingsError> {
        Self::builder().load()
    }

    /// Begins settings with sections of your own.
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder::default()
    }

    /// Reads all layers again, as these settings were loaded. It reads files and blocks.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with all faults of all layers.
    ///
    /// # Examples
    ///
    /// The effect of `SIGHUP` on a service, in a program of your own:
    ///
    /// ```no_run
    /// use aios_service::config::Settings;
    ///
    /// # fn main() -> Result<(), aios_service::config::SettingsError> {
    /// let settings = Settings::load()?;
    /// let newer = settings.reload()?;
    /// for change in newer.changes_since(&settings) {
    ///     println!("{}: {:?} is now {:?}", change.key, change.before, change.after);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload(&self) -> Result<Self, SettingsError> {
        SettingsBuilder::clone(&self.source).load()
    }
}

/// Describes the settings of a program, and loads them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SettingsBuilder {
    /// Sections of the program.
    sections: Vec<Section>,
    /// `None` for the default, which need not exist.
    folder: Option<PathBuf>,
    /// `None` for the variables of the process at the time of loading.
    environment: Option<Values<OsString, OsString>>,
    /// The first layer.
    defaults: Values<String, Value>,
    /// The last layer.
    values: Values<String, Value>,
    /// Whether unknown sections are left unread.
    has_other_sections: bool,
}

/// Values with their names. The values may be secrets, and are not printed.
#[derive(Clone)]
struct Values<N, V>(Vec<(N, V)>);

impl<N, V> Default for Values<N, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N: fmt::Debug, V> fmt::Debug for Values<N, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl SettingsBuilder {
    /// Adds a section of your own type, which [`Settings::section`] then returns. The name is
    /// `[a-z][a-z0-9_]*`. Keys that the type does not have are faults, whether or not it denies
    /// unknown fields.
    pub fn section<T>(mut self, name: impl Into<String>) -> Self
    where
        T: DeserializeOwned + JsonSchema + Send + Sync + 'static,
    {
        self.sections.push(Section::new::<T>(name.into()));
        self
    }

    /// Adds a section that a JSON Schema of a mapping describes, for types that are not written in
    /// Rust. [`Settings::section`] returns it as a [`Value`], with its secrets. `"writeOnly": true`
    /// marks a text as a secret, and `"x-aios-secret": "password"` a URL that may contain one.
    pub fn section_schema(mut self, name: impl Into<String>, schema: Value) -> Self {
        self.sections.push(Section::described(name.into(), schema));
        self
    }

    /// Sets the folder of `base.yaml` and the files of the environments, which must exist. By default
    /// it is `config` in the current folder, which need not exist.
    ///
    /// The [module](super) shows how the files are merged.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Replaces the environment variables of the process.
    ///
    /// Variables without the prefix `AIOS_` are needed for references of files only.
    pub fn environment<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.environment = Some(Values(variables.collect()));
        self
    }

    /// Sets the default of a key, such as `database.url`, which every other layer overrides.
    ///
    /// It is checked like a value of a file, except that it may be a secret. An unknown key is a
    /// fault.
    pub fn default_value(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.defaults.0.push((key.into(), value.into()));
        self
    }

    /// Sets the value of a key, such as `database.url`, over every other layer.
    ///
    /// For values that a program knows better than its operators, such as the arguments of a
    /// command line.
    pub fn value(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.values.0.push((key.into(), value.into()));
        self
    }

    /// Ignores unknown file sections and variables instead of reporting them as faults, whatever their
    /// names are. For programs that read the configuration of another program, such as its operators' tools.
    ///
    /// [`Settings::other_sections`] and [`Settings::ignored_variables`] list them, and
    /// [`Settings::similar_names`] those that may be misspelt. Faults within known sections, and
    /// unknown sections in [`value`](Self::value) and [`default_value`](Self::default_value), remain
    /// faults.
    pub fn other_sections(mut self) -> Self {
        self.has_other_sections = true;
        self
    }

    /// The JSON Schema of the files, for editors.
    ///
    /// # Examples
    ///
    /// A file that an editor uses to complete and check `base.yaml`, written by a command of the
    /// program:
    ///
    /// ```
    /// use aios_service::config::Settings;
    ///
    /// let schema = Settings::builder().schema();
    /// assert!(schema["properties"]["database"].is_object());
    /// println!("{schema:#}");
    /// ```
    #[must_use]
    pub fn schema(&self) -> Value {
        self.compile(&mut Vec::new()).as_value().clone()
    }

    /// Reads all layers. It reads files and blocks: call it before the runtime starts, or with
    /// `spawn_blocking`.
    ///
    /// The order of the steps and of the layers is that of the [module](super).
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with all faults of all layers.
    pub fn load(self) -> Result<Settings, SettingsError> {
        let mut faults = Vec::new();
        let schema = self.compile(&mut faults);
        let variables = match &self.environment {
            Some(Values(variables)) => variables.clone(),
            None => std::env::vars_os().collect(),
        };
        let environment = Environment::new(variables, &mut faults);
        let mut unread =
            Unread { has_other_sections: self.has_other_sections, ..Unread::default() };
        let mut tree = Node::mapping(Origin::Default);
        for mut layer in self.layers(&schema, &environment, &mut faults, &mut unread) {
            unread.take_sections(&mut layer, &schema);
            check(&layer, &schema.shape(), &mut Vec::new(), &mut faults);
            tree.merge(layer);
        }
        let resolved = resolve(&tree, &schema.shape(), &environment, &mut faults);
        let faulty = validate(&schema, &tree, &resolved, &mut faults);
        let mut typed = Typed { tree: &tree, resolved: &resolved, faulty, faults };
        let common = typed.common();
        let sections: BTreeMap<_, _> =
            self.sections.iter().filter_map(|section| typed.section(section)).collect();
        match (common, typed.faults.is_empty()) {
            (Some(common), true) => Ok(Settings {
                environment: environment.value(ENV).map(str::to_owned),
                entries: entries(&schema, &tree, &resolved),
                common,
                sections,
                unread: unread.sorted(),
                source: Arc::new(self),
            }),
            _ => Err(SettingsError::new(typed.faults)),
        }
    }

    /// The schema of all sections. A section that has a fault is left out.
    fn compile(&self, faults: &mut Vec<Fault>) -> Schema {
        let mut generator = SchemaGenerator::default();
        let common = generator.root_schema_for::<Common>();
        let mut schemas = match common.get("properties") {
            Some(Value::Object(schemas)) => schemas.clone(),
            _ => serde_json::Map::new(),
        };
        let mut definitions = serde_json::Map::new();
        for section in &self.sections {
            let schema = section.schema(&mut generator, &mut definitions);
            let fault = if !section.has_valid_name() {
                Some("the name of a section must be [a-z][a-z0-9_]*, without __")
            } else if schemas.contains_key(&section.name) {
                Some("the section exists already")
            } else {
                None
            };
            match fault {
                Some(reason) => {
                    let kind = FaultKind::Unreadable { reason: reason.to_owned() };
                    faults.push(Fault::new(Origin::Code, section.name.clone(), kind));
                }
                None => {
                    schemas.insert(section.name.clone(), schema);
                }
            }
        }
        definitions.append(&mut generator.take_definitions(true));
        let mut schema = Schema::new(&schemas, &definitions);
        for section in &self.sections {
            let shape = schema.shape().child(&section.name);
            if shape.is_some_and(|shape| !shape.is_mapping()) {
                schema.remove(&section.name);
                let reason = "the type of a section must be a mapping".to_owned();
                let kind = FaultKind::Unreadable { reason };
                faults.push(Fault::new(Origin::Code, section.name.clone(), kind));
            }
        }
        schema
    }

    /// The layers, from the first to the last. A fault in one leaves out what it concerns.
    fn layers(
        &self,
        schema: &Schema,
        environment: &Environment,
        faults: &mut Vec<Fault>,
        unread: &mut Unread,
    ) -> Vec<Node> {
        let of_code = |origin: Origin, values: &[(String, Value)]| {
            let node = |(key, value): &(String, Value)| {
                let path: Vec<_> = key.split('.').map(str::to_owned).collect();
                Node::from_value(&origin, value.clone()).at(&path)
            };
            values.iter().map(node).collect::<Vec<_>>()
        };
        let mut layers = of_code(Origin::Default, &self.defaults.0);
        let folder = self.folder.as_deref().unwrap_or(Path::new(FOLDER));
        let name = environment.value(ENV);
        layers.extend(files::of_folder(folder, self.folder.is_some(), name, faults));
        if let Some(folder) = environment.value(CONFIG_DIR) {
            layers.extend(files::of_config_dir(folder, faults));
        }
        layers.extend(of_environment(schema, environment, faults, unread));
        layers.extend(of_code(Origin::Code, &self.values.0));
        layers
    }
}

/// The layers of the environment: first the variables, then the files that variables name.
fn of_environment(
    schema: &Schema,
    environment: &Environment,
    faults: &mut Vec<Fault>,
    unread: &mut Unread,
) -> Vec<Node> {
    let mut values = Vec::new();
    let mut files = Vec::new();
    for (name, value) in environment.settings() {
        let origin = Origin::variable(name);
        match meaning(schema, name, value) {
            Meaning::Value(path) => {
                values.push(Node::new(origin, Content::Text(value.to_owned())).at(&path));
            }
            Meaning::File(path) => match secret_file(name, value, &path) {
                Ok(node) => files.push(node),
                Err(fault) => faults.push(fault),
            },
            Meaning::Fault(kind) => faults.push(Fault::new(origin, "", kind)),
            Meaning::Misspelt(kind) => faults.extend(unread.take_misspelt(name, kind).err()),
            Meaning::Foreign => unread.take_variable(name),
        }
    }
    values.append(&mut files);
    values
}

/// The value in a file that a variable names, without the line ends at its end.
fn secret_file(variable: &str, file: &str, path: &[String]) -> Result<Node, Fault> {
    let file = Path::new(file);
    let origin = Origin::SecretFile { variable: variable.into(), path: file.into() };
    let fault = |reason: &str| {
        let kind = FaultKind::Unreadable { reason: format!("the file {reason}") };
        Fault::new(origin.clone(), display(path), kind)
    };
    match files::read(file) {
        Ok(Some(text)) => {
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            Ok(Node::new(origin.clone(), Content::Text(text)).at(path))
        }
        Ok(None) => Err(fault("does not exist")),
        Err(reason) => Err(fault(&reason)),
    }
}

/// Reads the values into types.
struct Typed<'t> {
    /// Where each value comes from.
    tree: &'t Node,
    /// The values.
    resolved: &'t Resolved,
    /// The sections whose values are known to be invalid.
    faulty: BTreeSet<String>,
    /// All faults so far.
    faults: Vec<Fault>,
}

impl Typed<'_> {
    /// Reads the sections that every service has.
    fn common(&mut self) -> Option<Common> {
        let Value::Object(mut sections) = self.resolved.value.clone() else { return None };
        sections.retain(|name, _| !self.faulty.contains(name));
        read(&Value::Object(sections)).map_err(|refusal| self.refuse(&refusal)).ok()
    }

    /// Reads a section of the program.
    fn section(&mut self, section: &Section) -> Option<(String, AnySection)> {
        if self.faulty.contains(&section.name) {
            return None;
        }
        let value = self.resolved.value.get(&section.name)?;
        let read = section.read(value).map_err(|mut refusal| {
            refusal.path.insert(0, section.name.clone());
            self.refuse(&refusal);
        });
        read.ok().map(|value| (section.name.clone(), value))
    }

    /// Reports that a type refuses a value. The text of the type may repeat the value, so secrets
    /// are masked in it.
    fn refuse(&mut self, refusal: &Refusal) {
        let kind = FaultKind::Refused { reason: self.resolved.masked(&refusal.reason) };
        let origin = self.tree.origin_of(&refusal.path).clone();
        self.faults.push(Fault::new(origin, display(&refusal.path), kind));
    }
}
