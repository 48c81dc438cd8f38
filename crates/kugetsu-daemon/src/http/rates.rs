//! How often others than the owner may ask, and fail to say who they are.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Requests of a token, or of an address without one: how many at once, and how many in a second then.
const REQUESTS: (NonZeroU32, NonZeroU32) = (number(200), number(50));
/// Requests with a wrong token, of an address.
const FAILURES: (NonZeroU32, NonZeroU32) = (number(10), number(1));

const fn number(number: u32) -> NonZeroU32 {
    // Only constants get here, so a 0 does not compile.
    NonZeroU32::new(number).expect("not 0")
}

/// Somebody else than the owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Who has no token.
    Address(IpAddr),
    /// Who has this token.
    Token(String),
}

type Limiter = RateLimiter<Client, HashMapStateStore<Client>, DefaultClock>;

/// Counts requests.
pub(crate) struct Rates {
    requests: Limiter,
    failures: Limiter,
    clock: DefaultClock,
}

impl Rates {
    pub(crate) fn new() -> Self {
        let limiter =
            |(burst, in_a_second)| Limiter::hashmap(Quota::per_second(in_a_second).allow_burst(burst));
        Self {
            requests: limiter(REQUESTS),
            failures: limiter(FAILURES),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request. The error is how long the client has to wait.
    pub(crate) fn request(&self, client: &Client) -> Result<(), Duration> {
        self.count(&self.requests, client)
    }

    /// Counts a request with a wrong token.
    pub(crate) fn failure(&self, address: IpAddr) -> Result<(), Duration> {
        self.count(&self.failures, &Client::Address(address))
    }

    fn count(&self, limiter: &Limiter, client: &Client) -> Result<(), Duration> {
        let counted = limiter.check_key(client);
        counted.map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Forgets clients that have asked nothing for a while.
    pub(crate) fn tidy(&self) {
        for limiter in [&self.requests, &self.failures] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// What an address is counted as: a network of IPv6 that is one customer's is one client.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            Ipv6Addr::from(network).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_and_others_do_not() {
        let rates = Rates::new();
        let one = Client::Token("one".to_owned());
        let refused = (0..10_000).find_map(|_| rates.request(&one).err());
        assert!(refused.is_some_and(|wait| wait > Duration::ZERO), "{refused:?}");
        assert!(rates.request(&Client::Token("other".to_owned())).is_ok());
        let address = counted_as("2001:db8::1".parse().unwrap());
        assert_eq!(address, counted_as("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(address, counted_as("2001:db8:0:1::1".parse().unwrap()));
        assert!((0..10_000).any(|_| rates.failure(address).is_err()));
        assert!(rates.request(&Client::Address(address)).is_ok());
    }
}
