//! `kugetsu prune`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::list::broken_file;
use super::output::{Output, can_ask, confirm, count};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{KeptView, OrphanView, PruneOutput};
use kugetsu_engine::operations::{Orphan, Pruned};

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Do not ask, and also remove worktrees with uncommitted or unpushed work; the trash keeps that work
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &PruneArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let listed = engine.orphans()?;
    let orphans = listed.found;
    if !output.json {
        for (path, why) in &listed.broken {
            output.note(format!("kugetsu: {} is left out: {why}", path.display()));
        }
        match (orphans.is_empty(), listed.broken.len()) {
            (true, 0) => output.text("nothing to prune: opencode has every session"),
            (true, broken) => output.text(format!(
                "nothing to prune: opencode still has the session of every readable record; {} cannot be read",
                count(broken as u64, "record")
            )),
            _ => {}
        }
        for orphan in &orphans {
            output.text(format!(
                "{}  {} is gone from opencode",
                orphan.address, orphan.session
            ));
        }
    }
    let go = !orphans.is_empty()
        && (args.force || (can_ask() && !output.json && confirm("Move these records to the trash?")));
    let pruned = if go {
        engine.prune(&orphans, args.force)?
    } else {
        Pruned::default()
    };
    let status = if pruned.kept.is_empty() {
        ExitStatus::Ok
    } else {
        ExitStatus::Blocked
    };
    if go {
        engine.expire_trash()?;
    }
    if output.json {
        let kept = pruned.kept.into_iter().map(|kept| KeptView {
            address: kept.orphan.address,
            why: kept.why,
        });
        output.object(PruneOutput {
            orphans: orphans.into_iter().map(view).collect(),
            pruned: pruned.gone.into_iter().map(view).collect(),
            kept: kept.collect(),
            broken: listed.broken.into_iter().map(broken_file).collect(),
        });
    } else if go {
        output.text(format!(
            "moved {} of {} to the trash; opencode deleted their sessions, so they cannot be restored",
            pruned.gone.len(),
            orphans.len()
        ));
        for kept in &pruned.kept {
            output.note(format!("kugetsu: not pruned: {}", kept.why));
        }
        if !pruned.kept.is_empty() {
            output.note("  kugetsu prune --force removes them and keeps a copy in the trash");
        }
    } else if !orphans.is_empty() {
        output.note("nothing was changed; do it with: kugetsu prune --force");
    }
    Ok(status)
}

fn view(orphan: Orphan) -> OrphanView {
    OrphanView {
        address: orphan.address,
        session: orphan.session,
    }
}
