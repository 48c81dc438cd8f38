//! Finds the file to run.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{OpencodeError, Search};

/// Real binaries have more than 100 MiB, placeholders far less than this.
const SMALLEST_BINARY: u64 = 1024 * 1024;

pub(super) struct Located {
    pub(super) program: PathBuf,
    pub(super) shim: bool,
}

/// Finds the program: `KUGETSU_OPENCODE`, or else the configured program, or else the first one on PATH. If npm's node
/// script is found, returns the binary that the script would start, if that binary can be found.
#[cfg(test)]
pub(crate) fn find(search: &Search<'_>) -> Result<PathBuf, OpencodeError> {
    locate(search).map(|located| located.program)
}

pub(super) fn locate(search: &Search<'_>) -> Result<Located, OpencodeError> {
    let named = search
        .env_override
        .filter(|name| !name.is_empty())
        .map(|name| (Path::new(name), "KUGETSU_OPENCODE"))
        .or_else(|| search.configured.map(|path| (path, "the configuration")));
    let candidate = match named {
        // A bare name is searched on PATH, as in a shell.
        Some((name, origin)) if name.components().count() == 1 && !name.is_absolute() => {
            on_path(name.as_os_str(), search.path, origin)?.ok_or_else(|| OpencodeError::Missing {
                path: name.to_owned(),
                origin,
            })?
        }
        Some((path, origin)) => {
            if !path.exists() {
                return Err(OpencodeError::Missing {
                    path: path.to_owned(),
                    origin,
                });
            }
            if !is_executable(path) {
                return Err(OpencodeError::NotExecutable {
                    path: path.to_owned(),
                    origin,
                });
            }
            path.to_owned()
        }
        None => on_path(OsStr::new("opencode"), search.path, "on PATH")?.ok_or(OpencodeError::NotFound)?,
    };
    Ok(resolve_shim(candidate))
}

/// The first executable with that name. A file that cannot be run is an error only if there is no executable.
fn on_path(
    name: &OsStr,
    path: Option<&OsStr>,
    origin: &'static str,
) -> Result<Option<PathBuf>, OpencodeError> {
    let mut refused = None;
    for folder in std::env::split_paths(path.unwrap_or_default()) {
        if folder.as_os_str().is_empty() {
            continue;
        }
        let candidate = folder.join(name);
        if is_executable(&candidate) {
            return Ok(Some(candidate));
        }
        if candidate.is_file() {
            refused.get_or_insert(candidate);
        }
    }
    match refused {
        Some(path) => Err(OpencodeError::NotExecutable { path, origin }),
        None => Ok(None),
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The program to run for a candidate, as an absolute path without links. npm's script is used only if its binary
/// cannot be found.
fn resolve_shim(candidate: PathBuf) -> Located {
    let real = candidate.canonicalize().unwrap_or(candidate);
    let script = is_node_script(&real);
    let binary = (script || is_placeholder(&real))
        .then(|| binary_of(&real))
        .flatten();
    match binary {
        Some(program) => Located { program, shim: false },
        None => Located {
            program: real,
            shim: script,
        },
    }
}

/// Whether this is the placeholder of npm's package of 1.18.33: a small file in the binary's place until the install
/// script has run, which `npm install --ignore-scripts` skips. The binary is then still in the platform's package.
fn is_placeholder(path: &Path) -> bool {
    let in_package = path
        .parent()
        .is_some_and(|folder| folder.ends_with("node_modules/opencode-ai/bin"));
    in_package
        && path
            .metadata()
            .is_ok_and(|metadata| metadata.len() < SMALLEST_BINARY)
}

fn is_node_script(path: &Path) -> bool {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(128).read_to_end(&mut first));
    let line = first.split(|&byte| byte == b'\n').next().unwrap_or_default();
    read.is_ok() && line.starts_with(b"#!") && line.windows(4).any(|word| word == b"node")
}

/// Searches the same places as the script of 1.3.2: `.opencode` beside it, which its install script puts there, then
/// the platform's package in each `node_modules` on the way up.
fn binary_of(script: &Path) -> Option<PathBuf> {
    let folder = script.parent()?;
    let beside = folder.join(".opencode");
    if is_executable(&beside) {
        return Some(beside);
    }
    let names = package_names();
    folder
        .ancestors()
        .map(|ancestor| ancestor.join("node_modules"))
        .flat_map(|modules| {
            names
                .iter()
                .map(move |name| modules.join(name).join("bin/opencode"))
        })
        .find(|candidate| is_executable(candidate))
}

/// The packages that contain this platform's binary, best first.
fn package_names() -> Vec<String> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let base = format!("opencode-{system}-{machine}");
    let baseline = machine == "x64" && !has_avx2();
    let musl = system == "linux" && is_musl();
    let mut names: Vec<(bool, bool, String)> = [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(is_baseline, is_musl)| {
            let name = format!(
                "{base}{}{}",
                if is_baseline { "-baseline" } else { "" },
                if is_musl { "-musl" } else { "" }
            );
            (is_musl != musl, is_baseline != baseline, name)
        })
        .collect();
    names.sort();
    names.into_iter().map(|(_, _, name)| name).collect()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

/// Whether this system's C library is musl, independent of how kugetsu itself is linked.
fn is_musl() -> bool {
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    Path::new("/etc/alpine-release").exists()
        || (Path::new(&loader).exists() && !Path::new("/lib64/ld-linux-x86-64.so.2").exists())
}
