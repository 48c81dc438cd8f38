//! Commands on several sessions.

use super::Outcome;
use super::output::Output;
use kugetsu_api::Address;
use kugetsu_api::exit::ExitStatus;

/// Does it for each session, and reports each error as if it were the command's. The exit status is the highest. With
/// one session, this is the command itself.
pub(super) fn for_each(
    addresses: &[Address],
    output: Output,
    mut act: impl FnMut(&Address) -> Outcome,
) -> Outcome {
    if let [one] = addresses {
        return act(one);
    }
    let mut highest = ExitStatus::Ok;
    for address in addresses {
        let status = act(address).unwrap_or_else(|error| {
            let error = error.about(address);
            output.error(&error);
            error.exit_status()
        });
        if status.code() > highest.code() {
            highest = status;
        }
    }
    Ok(highest)
}
