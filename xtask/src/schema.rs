//! Writes the checked-in JSON Schemas from the types of kugetsu-api, and the OpenAPI document of the daemon.

use kugetsu_api::output::SCHEMAS;
use kugetsu_testing::workspace_root;

use crate::step::{Failure, cargo};

pub(crate) fn run() -> Result<(), Failure> {
    let folder = workspace_root().join("docs/schema");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    // Removes schemas that no longer have a type.
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for schema in SCHEMAS {
        let path = folder.join(format!("{}.schema.json", schema.name));
        std::fs::write(path, schema.text()).map_err(failed)?;
    }
    println!("{}: {} files", folder.display(), SCHEMAS.len());
    let document = workspace_root().join("docs/openapi.json");
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", document.display()));
    let printed = cargo(&["run", "--quiet", "--", "daemon", "openapi"])
        .output()
        .map_err(failed)?;
    if !printed.status.success() {
        return Err(Failure::of_status("kugetsu daemon openapi", printed.status));
    }
    std::fs::write(&document, printed.stdout).map_err(failed)?;
    println!("{}", document.display());
    Ok(())
}
