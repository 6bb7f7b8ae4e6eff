//! The files of a configuration.
//!
//! Reading is bounded in size and number. A file with a name that looks right and is not read
//! (`base.yml`) is a fault, and so is an environment without a file.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use super::{
    environment::{CONFIG_DIR, ENV},
    node::Node,
    yaml,
};
use crate::config::{Fault, Origin, check::nearest};

/// The longest file that is read: 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;
/// How many files of `AIOS_CONFIG_DIR` are read.
const MAX_FILES: usize = 100;

/// Reads a file of UTF-8. Returns `None` if there is none; an error is a reason.
pub(crate) fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
        // A pipe or a device might never end.
        Ok(metadata) if !metadata.is_file() => return Err("is not a file".to_owned()),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err("is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8".to_owned())
}

/// The layers of `base.yaml` and of the file of the environment.
///
/// | there is | result |
/// |---|---|
/// | no folder, and the program did not name one | no layers |
/// | no folder, and the program named it | a fault |
/// | no `base.yaml` | no layer |
/// | `AIOS_ENV` without a file of this name | a fault, with the nearest environment |
/// | `base.yml` or `{AIOS_ENV}.yml` alone | a fault: it would not be read |
pub(crate) fn of_folder(
    folder: &Path,
    is_required: bool,
    environment: Option<&str>,
    faults: &mut Vec<Fault>,
) -> Vec<Node> {
    if !folder.is_dir() {
        if is_required || folder.exists() {
            faults.push(Fault::unreadable(Origin::file(folder), "is not a folder"));
        }
        return Vec::new();
    }
    let mut layers = Vec::new();
    let base = load(&folder.join("base.yaml"), faults);
    if base.is_none() {
        refuse_yml(folder, "base", faults);
    }
    layers.extend(base);
    if let Some(name) = environment {
        layers.extend(of_environment(folder, name, faults));
    }
    layers
}

/// The layer of the environment. Its name becomes a part of a path, so only plain names are
/// allowed.
fn of_environment(folder: &Path, name: &str, faults: &mut Vec<Fault>) -> Option<Node> {
    let origin = Origin::variable(ENV);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || !name.bytes().all(is_part) || name == "base" {
        let reason = "expected the name of an environment of letters, digits, - and _, not base";
        faults.push(Fault::unreadable(origin, reason));
        return None;
    }
    let path = folder.join(format!("{name}.yaml"));
    let layer = load(&path, faults);
    if layer.is_none() && !path.exists() && !refuse_yml(folder, name, faults) {
        let names = environments(folder);
        let meant = nearest(name, names.iter().map(String::as_str));
        let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        faults.push(Fault::unreadable(origin, format!("there is no {}{meant}", path.display())));
    }
    layer
}

/// The names of the environments that have a file.
fn environments(folder: &Path) -> Vec<String> {
    let files = yaml_files(folder).unwrap_or_default().into_iter();
    let stems = files.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()));
    stems.filter(|name| name != "base").collect()
}

/// A file that looks as if it were read, and is not, is a fault.
fn refuse_yml(folder: &Path, name: &str, faults: &mut Vec<Fault>) -> bool {
    let path = folder.join(format!("{name}.yml"));
    if path.exists() {
        let reason = format!("is not read; rename it to {name}.yaml");
        faults.push(Fault::unreadable(Origin::file(&path), reason));
        return true;
    }
    false
}

/// The layers of the files in the folder of `AIOS_CONFIG_DIR`, in the order of their names.
pub(crate) fn of_config_dir(folder: &str, faults: &mut Vec<Fault>) -> Vec<Node> {
    let origin = Origin::variable(CONFIG_DIR);
    if folder.is_empty() {
        faults
            .push(Fault::unreadable(origin, "expected the path of a folder, found an empty text"));
        return Vec::new();
    }
    let files = match yaml_files(Path::new(folder)) {
        Ok(files) => files,
        Err(error) => {
            faults.push(Fault::unreadable(origin, format!("{folder} cannot be read: {error}")));
            return Vec::new();
        }
    };
    if files.len() > MAX_FILES {
        let reason = format!("{folder} has more than {MAX_FILES} files");
        faults.push(Fault::unreadable(origin, reason));
        return Vec::new();
    }
    files.iter().filter_map(|file| load(file, faults)).collect()
}

/// The YAML files of a folder. Those that begin with a dot are not for readers: Kubernetes has the
/// versions of a ConfigMap there.
fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if is_yaml && !is_hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads and parses a file; `None` if it does not exist or has a fault.
fn load(path: &Path, faults: &mut Vec<Fault>) -> Option<Node> {
    let text = match read(path) {
        Ok(text) => text?,
        Err(reason) => {
            faults.push(Fault::unreadable(Origin::file(path), reason));
            return None;
        }
    };
    yaml::parse(path, &text).map_err(|fault| faults.push(fault)).ok()
}
