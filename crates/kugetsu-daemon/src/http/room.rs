//! How many of something there may be at once: connections, and streams of events. The owner has room of their own, so
//! nobody else can take it, and one client of others cannot take it all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many there may be at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Of the owner.
    pub(crate) owner: usize,
    /// Of all others together.
    pub(crate) others: usize,
    /// Of one of the others.
    pub(crate) each: usize,
}

/// Who takes a place.
#[derive(Clone, Debug)]
pub(crate) enum Guest<K> {
    /// The owner.
    Owner,
    /// Somebody else.
    Other(K),
    /// Many others, who cannot be told apart.
    Others,
}

/// Counts who is in.
#[derive(Debug)]
pub(crate) struct Room<K> {
    capacity: Capacity,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    owner: usize,
    others: usize,
    each: HashMap<K, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat<K: Clone + Eq + Hash> {
    room: Arc<Room<K>>,
    guest: Guest<K>,
}

impl<K: Clone + Eq + Hash> Room<K> {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            taken: Mutex::new(Taken {
                owner: 0,
                others: 0,
                each: HashMap::new(),
            }),
        })
    }

    /// Takes a place, if there is one for this guest.
    pub(crate) fn enter(self: &Arc<Self>, guest: Guest<K>) -> Option<Seat<K>> {
        let mut taken = self.taken();
        let has_room = match &guest {
            Guest::Owner => taken.owner < self.capacity.owner,
            Guest::Others => taken.others < self.capacity.others,
            Guest::Other(key) => {
                taken.others < self.capacity.others
                    && taken.each.get(key).copied().unwrap_or_default() < self.capacity.each
            }
        };
        if !has_room {
            return None;
        }
        match &guest {
            Guest::Owner => taken.owner += 1,
            Guest::Others => taken.others += 1,
            Guest::Other(key) => {
                taken.others += 1;
                *taken.each.entry(key.clone()).or_default() += 1;
            }
        }
        drop(taken);
        Some(Seat {
            room: Arc::clone(self),
            guest,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        match &self.guest {
            Guest::Owner => taken.owner -= 1,
            Guest::Others => taken.others -= 1,
            Guest::Other(key) => {
                taken.others -= 1;
                if let Some(count) = taken.each.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        taken.each.remove(key);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_room_of_the_owner_or_all_of_the_room() {
        let room = Room::new(Capacity {
            owner: 1,
            others: 3,
            each: 2,
        });
        let greedy: Vec<_> = (0..5)
            .filter_map(|_| room.enter(Guest::Other("greedy")))
            .collect();
        assert_eq!(greedy.len(), 2);
        let modest = room.enter(Guest::Other("modest"));
        assert!(modest.is_some() && room.enter(Guest::Others).is_none());
        let owner = room.enter(Guest::Owner);
        assert!(owner.is_some() && room.enter(Guest::Owner).is_none());
        drop((greedy, modest, owner));
        assert!(room.enter(Guest::Owner).is_some() && room.enter(Guest::Others).is_some());
        assert!(room.taken().each.is_empty());
    }
}
