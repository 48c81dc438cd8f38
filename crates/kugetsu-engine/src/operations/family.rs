//! Turns that tools of other turns begin: who began whom, how deep, and on whose budget.
//!
//! The store's register of running turns ([`crate::store`]) has the facts. A turn registers when it has its lease, and a
//! command finds the turn whose tool it is by its own ancestors ([`Engine::enclosing_turn`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{Engine, EngineError};
use crate::process::{self, TURN_ENV};
use crate::store::{Member, RecordKey, Store, StoreError, TurnOf, WaitEntry};
use crate::turn::control::{self, Signal};
use crate::turn::{BudgetWatch, Limits};
use kugetsu_api::{Address, ParentTurn};

/// While this exists, the register says that a tool of this process's turn waits for another session.
#[derive(Debug)]
pub struct Waiting {
    _entry: Option<WaitEntry>,
}

impl Engine {
    /// The running turn of this store whose tool started this process, directly or not. The guards above this process
    /// tell, whatever the environment says; the environment tells where there is no `/proc`.
    pub fn enclosing_turn(&self) -> Option<Uuid> {
        if !self.store.has_families() {
            return None;
        }
        let told = self
            .environment
            .get(TURN_ENV)
            .and_then(|mark| mark.to_str()?.parse().ok());
        // Other programs than opencode have guards too, and so do turns of other stores.
        for mark in process::enclosing_marks().into_iter().chain(told) {
            // A warm server has a mark of its own. A tool may have removed what names its turn: then it is the tool of a
            // turn that is not known, which may begin nothing.
            let turn = match self.store.served_turn(mark) {
                Some(served) => served.turn,
                None if self.store.is_server(mark) => return Some(mark),
                None => mark,
            };
            if self
                .store
                .member(turn)
                .is_some_and(|member| self.store.runs(&member))
            {
                return Some(turn);
            }
        }
        None
    }

    /// Makes the turns of this engine turns that a tool of this turn has begun.
    #[must_use]
    pub fn within(mut self, turn: Option<Uuid>) -> Self {
        self.parent = turn;
        self
    }

    /// The turn whose tool this process is.
    pub fn parent_turn(&self) -> Option<Uuid> {
        self.parent
    }

    fn parent_member(&self) -> Option<Member> {
        self.store.member(self.parent?)
    }

    /// Refuses to act on the turn whose tool this process is, or on one above it: the command would wait for itself.
    pub fn refuse_own_turn(&self, address: &Address) -> Result<(), EngineError> {
        let Some(parent) = self.parent_member() else {
            return Ok(());
        };
        let own = parent.lineage().find(|above| above.address == *address);
        let runs = |above: &TurnOf| {
            self.store
                .member(above.turn)
                .is_some_and(|above| self.store.runs(&above))
        };
        match own.filter(|above| runs(above)) {
            Some(own) => Err(EngineError::OwnTurn {
                address: address.clone(),
                itself: own.turn == parent.own.turn,
            }),
            None => Ok(()),
        }
    }

    /// Refuses to act on all turns below those of a session, if the turn whose tool this process is is one of them or
    /// itself of that session.
    pub(super) fn refuse_own_family(&self, address: &Address) -> Result<(), EngineError> {
        match self.parent_member() {
            Some(parent) if parent.lineage().any(|above| above.address == *address) => {
                Err(EngineError::OwnTurn {
                    address: address.clone(),
                    itself: parent.own.address == *address,
                })
            }
            _ => Ok(()),
        }
    }

    /// Notes, until the result is dropped, that a tool of this process's turn waits for a session. Refuses a wait
    /// without an end: for the turn's own session, or for a session whose turn waits for this one.
    pub fn wait_for(&self, address: &Address) -> Result<Waiting, EngineError> {
        self.refuse_own_turn(address)?;
        let Some(parent) = self.parent_member() else {
            return Ok(Waiting { _entry: None });
        };
        // Of two that begin to wait for each other, at least the later one sees the entry of the other.
        let entry = self.store.note_wait(&parent, address)?;
        let (mut open, mut seen) = (vec![address.clone()], Vec::new());
        while let Some(next) = open.pop() {
            if seen.contains(&next) {
                continue;
            }
            for member in self.store.members_of(&next) {
                if member.own.turn == parent.own.turn {
                    return Err(EngineError::WaitsInACircle {
                        address: address.clone(),
                        own: parent.own.address,
                    });
                }
                if self.store.runs(&member) {
                    open.extend(self.store.awaited_by(&member));
                }
            }
            seen.push(next);
        }
        Ok(Waiting { _entry: Some(entry) })
    }

    /// Registers a turn that has its lease. Narrows its limits to what the turns above it have left.
    pub(super) fn register(
        &self,
        turn: Uuid,
        address: &Address,
        limits: &mut Limits,
    ) -> Result<Registered, EngineError> {
        // What is counted must still be true when the turn is in the register.
        let _joining = match self.parent {
            Some(_) => Some(self.store.families_lock("begin a turn")?),
            None => None,
        };
        let parent = self.parent_member();
        if self.parent.is_some() && parent.is_none() {
            return Err(EngineError::ParentEnded(address.clone()));
        }
        let ancestors: Vec<TurnOf> = parent.iter().flat_map(Member::lineage).cloned().collect();
        let allowed = self.settings.max_depth;
        if ancestors.len() > allowed as usize {
            return Err(EngineError::TooDeep {
                address: address.clone(),
                depth: ancestors.len(),
                allowed,
            });
        }
        if let Some(parent) = &parent {
            if let Some(of) = self.store.closed_above(parent) {
                return Err(EngineError::StoppedAbove {
                    address: address.clone(),
                    of: of.address.clone(),
                });
            }
            let family = self.store.family(parent.root());
            let began = |member: &&Member| !member.ancestors.is_empty() && self.store.runs(member);
            let (running, allowed) = (
                family.iter().filter(began).count(),
                self.settings.max_delegates.get(),
            );
            if running >= allowed as usize {
                let root = ancestors.first().unwrap_or(&parent.own);
                return Err(EngineError::TooManyDelegates {
                    address: address.clone(),
                    of: root.address.clone(),
                    running,
                    allowed,
                });
            }
            for above in family.iter().filter(|above| parent.is_within(above.own.turn)) {
                let spent = Spent::within(&family, above.own.turn);
                // A millionth of a dollar is less than anything costs, and a sum of fractions is longer than that.
                let cost_left = above
                    .max_cost
                    .map(|limit| ((limit - spent.cost_usd) * 1e6).round() / 1e6);
                let tokens_left = above.max_tokens.map(|limit| limit.saturating_sub(spent.tokens));
                if cost_left.is_some_and(|left| left <= 0.0) || tokens_left == Some(0) {
                    return Err(EngineError::BudgetSpent {
                        address: address.clone(),
                        of: above.own.address.clone(),
                        spent: spent.of(above),
                    });
                }
                let narrower = |own: Option<f64>, left: f64| own.map_or(left, |own| own.min(left));
                limits.cost_usd =
                    cost_left.map_or(limits.cost_usd, |left| Some(narrower(limits.cost_usd, left)));
                let narrower = |own: Option<u64>, left: u64| own.map_or(left, |own| own.min(left));
                limits.tokens = tokens_left.map_or(limits.tokens, |left| Some(narrower(limits.tokens, left)));
            }
        }
        let member = Member {
            own: TurnOf {
                turn,
                address: address.clone(),
            },
            ancestors,
            max_cost: limits.cost_usd,
            max_tokens: limits.tokens,
            cost_usd: 0.0,
            tokens: 0,
            ended: false,
        };
        self.store.write_member(&member)?;
        Ok(Registered {
            store: self.store.clone(),
            member: Mutex::new(member),
        })
    }

    /// Tells every running turn below this one to stop. They end in order, after this.
    pub(super) fn stop_descendants(&self, registered: &Registered) {
        let own = registered.locked().clone();
        for member in self.store.family(own.root()) {
            if member.own.turn != own.own.turn && member.is_within(own.own.turn) && self.store.runs(&member) {
                let key = RecordKey::from(&member.own.address);
                if let Err(error) = control::send(&self.store, &key, member.own.turn, Signal::Stop) {
                    tracing::warn!("{}: it could not be told to stop: {error}", member.own.address);
                }
            }
        }
    }
}

/// What the turns of a part of a family have spent.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cost_usd: f64,
    tokens: u64,
    /// What the outermost of them has spent itself.
    own_cost_usd: f64,
    own_tokens: u64,
}

impl Spent {
    /// By a turn and all turns below it.
    fn within(family: &[Member], turn: Uuid) -> Self {
        let mut spent = Self::default();
        for member in family.iter().filter(|member| member.is_within(turn)) {
            spent.cost_usd += member.cost_usd;
            spent.tokens = spent.tokens.saturating_add(member.tokens);
            if member.own.turn == turn {
                (spent.own_cost_usd, spent.own_tokens) = (member.cost_usd, member.tokens);
            }
        }
        spent
    }

    /// What was spent of the limits of a turn, as a phrase.
    fn of(self, member: &Member) -> String {
        match (member.max_cost, member.max_tokens) {
            (Some(limit), _) if self.cost_usd >= limit => format!(
                "{:.4} USD of at most {limit} USD, {:.4} USD of it by turns that it began",
                self.cost_usd,
                self.cost_usd - self.own_cost_usd
            ),
            (_, Some(limit)) => format!(
                "{} tokens of at most {limit}, {} of them by turns that it began",
                self.tokens,
                self.tokens - self.own_tokens
            ),
            _ => format!("{:.4} USD", self.cost_usd),
        }
    }

    fn exceeds(self, member: &Member) -> bool {
        member.max_cost.is_some_and(|limit| self.cost_usd > limit)
            || member.max_tokens.is_some_and(|limit| self.tokens > limit)
    }
}

/// A turn's entry in the register. Dropping it marks the turn as ended.
#[derive(Debug)]
pub(super) struct Registered {
    store: Store,
    member: Mutex<Member>,
}

impl Registered {
    fn locked(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn member(&self) -> Member {
        self.locked().clone()
    }

    /// The turn whose tool began this one.
    pub(super) fn parent(&self) -> Option<ParentTurn> {
        let member = self.locked();
        let parent = member.ancestors.last()?;
        Some(ParentTurn {
            turn: parent.turn,
            address: parent.address.clone(),
            depth: u32::try_from(member.ancestors.len()).unwrap_or(u32::MAX),
        })
    }

    /// Notes what the turn has spent in all, and that it has ended.
    pub(super) fn end(&self, cost_usd: f64, tokens: u64) {
        let mut member = self.locked();
        if !member.ended {
            (member.cost_usd, member.tokens, member.ended) = (cost_usd, tokens, true);
            counted(self.store.end_member(&member));
        }
    }
}

/// A turn is only not counted if the register cannot be written, on a full disk for example.
fn counted(written: Result<(), StoreError>) {
    let _ = written.inspect_err(|error| tracing::debug!("the register of turns: {error}"));
}

impl Drop for Registered {
    fn drop(&mut self) {
        let (cost_usd, tokens) = {
            let member = self.locked();
            (member.cost_usd, member.tokens)
        };
        self.end(cost_usd, tokens);
    }
}

impl BudgetWatch for Registered {
    fn check(&self, cost_usd: f64, tokens: u64) -> Option<String> {
        let mut member = self.locked();
        // The limits of the turns above it have narrowed its own.
        let has_limits = member.max_cost.is_some() || member.max_tokens.is_some();
        // Without any, only the turns above it count what it spends.
        if member.ended || (!has_limits && member.ancestors.is_empty()) {
            return None;
        }
        // opencode's own numbers, which the supervisor has only added up: any change is one in the bits.
        if member.cost_usd.to_bits() != cost_usd.to_bits() || member.tokens != tokens {
            (member.cost_usd, member.tokens) = (cost_usd, tokens);
            counted(self.store.write_member(&member));
        }
        if !has_limits {
            return None;
        }
        let family = self.store.family(member.root());
        // The turn's own spending is the state machine's business.
        if family.len() < 2 {
            return None;
        }
        let above = family.iter().filter(|above| member.is_within(above.own.turn));
        above
            .map(|above| (above, Spent::within(&family, above.own.turn)))
            .find(|(above, spent)| spent.exceeds(above))
            .map(|(above, spent)| {
                let whose = if above.own.turn == member.own.turn {
                    String::new()
                } else {
                    format!(" of {}, whose turn began this one", above.own.address)
                };
                format!("budget{whose}: {}", spent.of(above))
            })
    }

    fn cost_below(&self) -> f64 {
        let member = self.member();
        let spent = Spent::within(&self.store.family(member.root()), member.own.turn);
        spent.cost_usd - spent.own_cost_usd
    }
}
