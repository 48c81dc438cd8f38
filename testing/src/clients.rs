//! Programs from outside that use the API as their users do: axe-core judges the page, schemathesis the answers, and
//! TypeScript the document.

use std::path::PathBuf;

use crate::workspace_root;

/// Where they are. `cargo xtask test` installs them.
pub struct Clients;

impl Clients {
    /// The packages from npm, with exact versions.
    pub const NPM: [&str; 4] = [
        "axe-core@4.14.1",
        "openapi-fetch@0.17.0",
        "openapi-typescript@7.13.0",
        "typescript@5.9.3",
    ];
    /// The packages from PyPI, with exact versions.
    pub const PYPI: [&str; 1] = ["schemathesis==4.32.5"];

    /// The folder of the installation, which git ignores.
    pub fn folder() -> PathBuf {
        workspace_root().join(".clients")
    }

    /// The folder with the packages from npm.
    pub fn node_modules() -> PathBuf {
        Self::folder().join("node_modules")
    }

    /// The script of axe-core.
    pub fn axe() -> PathBuf {
        Self::node_modules().join("axe-core/axe.min.js")
    }

    /// The program that makes types from an OpenAPI document, for node.
    pub fn openapi_typescript() -> PathBuf {
        Self::node_modules().join("openapi-typescript/bin/cli.js")
    }

    /// The compiler of TypeScript, for node.
    pub fn tsc() -> PathBuf {
        Self::node_modules().join("typescript/bin/tsc")
    }

    /// The folder of the Python environment.
    pub fn python() -> PathBuf {
        Self::folder().join("python")
    }

    /// The program schemathesis.
    pub fn schemathesis() -> PathBuf {
        Self::python().join("bin/schemathesis")
    }
}
