//! Whether a turn may run, and what it begins with: the lease, what a dead supervisor left, the record, the worktree, the
//! hook before the turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Delivery, Mode, TurnSubject};
use crate::opencode::Opencode;
use crate::operations::hooks::HookPoint;
use crate::operations::interrupts::Interrupts;
use crate::operations::recover::was_prompted;
use crate::operations::request::TurnRequest;
use crate::operations::{Engine, EngineError, pending, points, read_database};
use crate::store::{Lease, LeaseError, holder_of_turn};
use crate::turn::Responder;
use kugetsu_api::{
    BaseRecord, SCHEMA, SessionRecord, Totals, TransportChoice, TransportKind, TurnRecord, Verdict,
};

/// How often a lease that somebody else holds is tried.
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// A turn that may run.
pub(super) struct Admitted {
    pub(super) delivery: Delivery,
    /// The turn of a dead supervisor that was closed.
    pub(super) adopted: Option<TurnRecord>,
    /// What else a person should know.
    pub(super) notes: Vec<String>,
}

/// What is found under the lease.
struct Found {
    opencode: Opencode,
    record: SessionRecord,
    adopted: Option<TurnRecord>,
}

impl Engine {
    pub(super) async fn admit(
        self: Arc<Self>,
        id: Uuid,
        request: TurnRequest,
        responder: Responder,
        interrupts: &mut Interrupts,
    ) -> Result<Admitted, EngineError> {
        if responder.is_interactive()
            && request.options.transport == TransportChoice::Only(TransportKind::Run)
        {
            return Err(needs_serve());
        }
        self.check_worktree_request(&request.worktree)?;
        let request = Arc::new(request);
        let lease = self.admission_lease(id, &request, interrupts).await?;
        let lease = Arc::new(lease);
        points::TURN_LEASED.pass();
        let found = {
            let address = request.address.clone();
            let looked =
                move |engine: &Self| Ok((engine.opencode()?, engine.store.session_record(&address)?));
            let (opencode, record) = self.interruptible(interrupts, looked).await?;
            if record.as_ref().is_some_and(|record| record.fork.is_some()) {
                // Its fork, once found, is given its policy.
                self.database_writable(&opencode, interrupts).await?;
            }
            let (lease, request) = (Arc::clone(&lease), Arc::clone(&request));
            self.interruptible(interrupts, move |engine| {
                engine.found_under_lease(&request, &lease, opencode, record)
            })
            .await?
        };
        let Found {
            opencode,
            record,
            adopted,
        } = found;
        let started = Timestamp::now();
        let (prompt, once) = pending::with_answers(&request.prompt, &record.pending);
        if prompt.trim().is_empty() {
            return Err(EngineError::Usage {
                problem: "the message is empty".to_owned(),
                hint: "write it after the reference, or pipe it in and write `-`".to_owned(),
            });
        }
        let mut rules = if responder.is_interactive() {
            record.policy.asking_rules()
        } else {
            record.policy.rules()
        };
        rules.extend(once);
        let mut notes = Vec::new();
        let record = self
            .with_worktree(&lease, record, &request.worktree, interrupts, &mut notes)
            .await?;
        let record = self
            .interruptible(interrupts, move |_| check_directory(record))
            .await?;
        self.interruptible_hook(HookPoint::BeforeTurn, &record, Some(id), &lease, interrupts)
            .await?;
        let delivery = Delivery {
            engine: self,
            lease,
            opencode,
            subject: TurnSubject::Session(record),
            turn: id,
            started,
            prompt,
            rules,
            responder,
            options: request.options.clone(),
            fallback: None,
            fork_lock: None,
            writing: Arc::default(),
        };
        Ok(Admitted {
            delivery,
            adopted,
            notes,
        })
    }

    /// Takes the lease, and waits for it as long as was asked for or until somebody interrupts. A turn in the wrong mode
    /// is refused before, without a wait.
    async fn admission_lease(
        self: &Arc<Self>,
        id: Uuid,
        request: &Arc<TurnRequest>,
        interrupts: &mut Interrupts,
    ) -> Result<Lease, EngineError> {
        let asked = Instant::now();
        let mut first = true;
        loop {
            let request = Arc::clone(request);
            let check = std::mem::take(&mut first);
            let attempt = move |engine: &Self| {
                // A turn that is asked for again is no mistake; what is found under the lease decides.
                if check && request.turn.is_none() {
                    let record = engine.store.session_record(&request.address)?;
                    refuse_wrong_mode(&request, record.as_ref())?;
                }
                let holder = holder_of_turn(request.mode.verb(), id);
                match engine.store.lease_session(&request.address, holder, None) {
                    Err(LeaseError::Held { holder, .. })
                        if engine.may_wait(&request, holder.as_ref(), asked.elapsed())? =>
                    {
                        Ok(None)
                    }
                    other => Ok(Some(other?)),
                }
            };
            if let Some(lease) = self.interruptible(interrupts, attempt).await? {
                return Ok(lease);
            }
            interrupts.or(tokio::time::sleep(LEASE_LOOK)).await?;
        }
    }

    /// Under the lease nobody else changes the record, and a live turn in it is a dead one. Blocks.
    fn found_under_lease(
        &self,
        request: &TurnRequest,
        lease: &Lease,
        opencode: Opencode,
        mut record: Option<SessionRecord>,
    ) -> Result<Found, EngineError> {
        let adopted = match &mut record {
            Some(record) => self.adopt(lease, record, Some(&opencode))?,
            None => None,
        };
        self.refuse_recorded(request, record.as_ref())?;
        refuse_wrong_mode(request, record.as_ref())?;
        if request.mode == Mode::Start
            && let Some(record) = &record
            && let Some(session) = &record.session
            && was_prompted(session, &opencode)?
        {
            return Err(EngineError::AlreadyStarted {
                address: request.address.clone(),
                session: session.clone(),
            });
        }
        let record = match record {
            Some(record) if record.session.is_some() => check_session(record, &opencode)?,
            other => self.new_record(request, &opencode, other)?,
        };
        Ok(Found {
            opencode,
            record,
            adopted,
        })
    }

    fn new_record(
        &self,
        request: &TurnRequest,
        opencode: &Opencode,
        unborn: Option<SessionRecord>,
    ) -> Result<SessionRecord, EngineError> {
        let base: BaseRecord = self.base_for(request.address.repo())?;
        let of = format!("the base of {}", base.repo);
        if read_database(opencode)?.session(&base.session)?.is_none() {
            let session = base.session;
            return Err(EngineError::SessionGone { of, session });
        }
        if !base.directory.is_dir() {
            let directory = base.directory;
            return Err(EngineError::DirectoryGone { of, directory });
        }
        let now = Timestamp::now();
        Ok(SessionRecord {
            schema: SCHEMA,
            address: request.address.clone(),
            typed: request.typed.clone(),
            session: None,
            fork: None,
            base: base.repo,
            base_session: base.session,
            directory: base.directory,
            worktree: unborn.as_ref().and_then(|record| record.worktree.clone()),
            title: request.address.to_string(),
            policy: base.policy,
            opencode: opencode.version.to_string(),
            created: unborn.as_ref().map_or(now, |record| record.created),
            updated: now,
            live: None,
            last: unborn.as_ref().and_then(|record| record.last.clone()),
            totals: unborn
                .as_ref()
                .map_or_else(Totals::default, |record| record.totals),
            days: unborn.map(|record| record.days).unwrap_or_default(),
            pending: Vec::new(),
        })
    }
}

fn refuse_wrong_mode(request: &TurnRequest, record: Option<&SessionRecord>) -> Result<(), EngineError> {
    let session = record.and_then(|record| record.session.clone());
    match (request.mode, session) {
        // A first turn that was lost may never have reached opencode: what is found under the lease decides.
        (Mode::Start, Some(session)) if !record.is_some_and(first_turn_in_doubt) => {
            Err(EngineError::AlreadyStarted {
                address: request.address.clone(),
                session,
            })
        }
        // With a fork in the journal there may be one; what is found under the lease decides.
        (Mode::Continue, None) if record.is_none_or(|record| record.fork.is_none()) => {
            Err(EngineError::NoSession(request.address.clone()))
        }
        _ => Ok(()),
    }
}

/// That opencode still has the session. Blocks.
pub(in crate::operations) fn check_session(
    record: SessionRecord,
    opencode: &Opencode,
) -> Result<SessionRecord, EngineError> {
    let of = record.address.to_string();
    if let Some(session) = &record.session
        && read_database(opencode)?.session(session)?.is_none()
    {
        let session = session.clone();
        return Err(EngineError::SessionGone { of, session });
    }
    Ok(record)
}

fn check_directory(record: SessionRecord) -> Result<SessionRecord, EngineError> {
    if record.directory.is_dir() {
        return Ok(record);
    }
    Err(EngineError::DirectoryGone {
        of: record.address.to_string(),
        directory: record.directory,
    })
}

/// Whether the record alone cannot tell if a prompt has ever reached the session.
fn first_turn_in_doubt(record: &SessionRecord) -> bool {
    record.live.is_some()
        || record.totals.turns == 0
        || record
            .last
            .as_ref()
            .is_some_and(|last| last.verdict == Verdict::Lost)
}

pub(super) fn needs_serve() -> EngineError {
    EngineError::Usage {
        problem: "`opencode run` refuses every request by itself, so nobody can answer there".to_owned(),
        hint: "use --transport serve with --answers, --supervised and --on-ask block".to_owned(),
    }
}
