//! Goes over the headers of an answer, and puts together what they say.

use std::cell::OnceCell;

use super::dates::Present;
use super::names::{FAMILIES, Field, Key, Per, Place, WAITS, small};
use super::numbers::{MOST_SECONDS, count, number};
use super::structured;
use super::texts::{first, fits};
use super::times::Time;
use super::windows::Windows;
use crate::base::wall;
use crate::limits::Unit;

/// What a provider said about one of its limits. The limit or what remains is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct HeardLimit {
    pub(crate) unit: Unit,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    /// Seconds until the window begins anew or is full again.
    pub(crate) reset: Option<f64>,
}

/// All that headers say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Heard {
    /// Seconds after which the provider wants to be asked again.
    pub(crate) retry_after: Option<f64>,
    /// At most one for each unit, in the order of the units.
    pub(crate) limits: Vec<HeardLimit>,
    /// Seconds until the last of the spent limits begins anew. The reset of a limit that is not spent tells
    /// when it will be full again. That is not the time of the next request.
    pub(crate) renewed: Option<f64>,
    /// Whether the wait is about the whole account.
    pub(crate) of_account: bool,
}

/// A limit with the name of its family.
#[derive(Debug)]
struct Named {
    key: Key,
    limit: Option<u64>,
    remaining: Option<u64>,
    reset: Option<f64>,
}

/// How long to wait, by one of the ways to say it; None if what was said is no time.
#[derive(Debug, Clone, Copy)]
struct Wait(Option<Time>);

/// Reads headers one by one. Of several with the same name the first counts.
#[derive(Debug)]
pub(crate) struct Reader {
    present: Option<Present>,
    named: Vec<Named>,
    /// Resets, with the place of their limit in `named`. The present may come after them.
    resets: Vec<(usize, Time)>,
    /// The ways to say how long to wait, as far as they were used.
    waits: [Option<Wait>; WAITS],
    rate_limit: Option<String>,
    policy: Option<String>,
    windows: Option<Windows>,
}

impl Reader {
    /// Makes a reader. If `present` is None, the answer's own `Date` tells the present: then it does not
    /// matter if a clock is wrong, here or there.
    pub(crate) fn new(present: Option<Present>) -> Self {
        let (named, resets) = (Vec::new(), Vec::new());
        Self { present, named, resets, waits: [None; WAITS], rate_limit: None, policy: None, windows: None }
    }

    /// Takes in a header.
    pub(crate) fn take(&mut self, name: &str, said: &str) {
        let Some(name) = small(name) else { return };
        let Some(place) = Place::of(&name).filter(|_| fits(said)) else { return };
        match place {
            Place::Limit(key, field) => self.take_limit(key, field, said),
            Place::Wait(nth) => self.take_wait(nth, || Time::read(said)),
            Place::WaitMillis(nth) => {
                self.take_wait(nth, || number(first(said), MOST_SECONDS).map(|millis| Time::In(millis / 1000.0)));
            }
            Place::Date => self.present = self.present.or_else(|| Present::of_date(said)),
            Place::RateLimit => {
                self.rate_limit.get_or_insert_with(|| said.to_owned());
            }
            Place::Policy => {
                self.policy.get_or_insert_with(|| said.to_owned());
            }
            Place::Window(name) => self.windows.get_or_insert_default().add(name, said),
        }
    }

    fn take_limit(&mut self, key: Key, field: Field, said: &str) {
        let known = self.named.iter().position(|named| named.key == key);
        let nth = known.unwrap_or(self.named.len());
        if known.is_none() {
            self.named.push(Named { key, limit: None, remaining: None, reset: None });
        }
        let Some(named) = self.named.get_mut(nth) else { return };
        match field {
            Field::Limit => named.limit = named.limit.or_else(|| count(said)),
            Field::Remaining => named.remaining = named.remaining.or_else(|| count(said)),
            Field::Reset => self.resets.extend(Time::read(said).map(|time| (nth, time))),
        }
    }

    fn take_wait(&mut self, nth: usize, read: impl FnOnce() -> Option<Time>) {
        if let Some(wait @ None) = self.waits.get_mut(nth) {
            *wait = Some(Wait(read()));
        }
    }

    /// Returns what all headers said.
    pub(crate) fn finish(mut self) -> Heard {
        let clock = OnceCell::new();
        let present = || match self.present {
            Some(Present::At(micros)) => micros,
            _ => *clock.get_or_init(wall::micros),
        };
        for &(nth, time) in &self.resets {
            if let Some(named) = self.named.get_mut(nth) {
                named.reset = named.reset.or_else(|| time.seconds(present));
            }
        }
        let waited = self.first_wait(present);
        let rejected = self.windows.as_ref().and_then(|windows| windows.rejected_until(present));
        self.add_structured();
        let is_positive = |wait: &f64| *wait > 0.0;
        let retry_after = waited.filter(is_positive).or(rejected.filter(is_positive)).or(waited);
        let spent = self.named.iter().filter(|named| named.remaining == Some(0));
        Heard {
            retry_after,
            renewed: spent.filter_map(|named| named.reset).reduce(f64::max),
            limits: self.most_telling(),
            of_account: rejected.is_some() && (retry_after.is_some() || !self.named.is_empty()),
        }
    }

    /// Returns the first wait that is not zero. A zero is the answer only if no other wait is named.
    fn first_wait(&self, present: impl Fn() -> i64) -> Option<f64> {
        let waits = self.waits.iter().flatten().filter_map(|wait| wait.0?.seconds(&present));
        let mut none = None;
        for wait in waits {
            if wait > 0.0 {
                return Some(wait);
            }
            none = Some(wait);
        }
        none
    }

    /// Adds what the IETF's fields say. Of several policies of a unit, the strictest one counts.
    fn add_structured(&mut self) {
        let Some(rate_limit) = &self.rate_limit else { return };
        for said in structured::read(rate_limit, self.policy.as_deref().unwrap_or_default()) {
            let key = Key { unit: said.unit, per: Per::Window, rank: FAMILIES };
            if self.named.iter().all(|named| named.key != key) {
                self.named.push(Named { key, limit: said.limit, remaining: Some(said.remaining), reset: said.reset });
            }
        }
    }

    /// Returns each unit as the first family tells it that knows it.
    fn most_telling(&self) -> Vec<HeardLimit> {
        let known = |unit| {
            let is_known = |named: &&Named| {
                named.key.unit == unit && named.key.per == Per::Window && (named.limit.is_some() || named.remaining.is_some())
            };
            let Named { limit, remaining, reset, .. } = *self.named.iter().filter(is_known).min_by_key(|named| named.key.rank)?;
            Some(HeardLimit { unit, limit, remaining, reset })
        };
        Unit::ALL.into_iter().filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Present = Present::At(1_790_510_400_000_000);

    fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Heard {
        let mut reader = Reader::new(Some(NOON));
        for (name, said) in headers {
            reader.take(name, said);
        }
        reader.finish()
    }

    fn heard(unit: Unit, limit: Option<u64>, remaining: Option<u64>, reset: Option<f64>) -> HeardLimit {
        HeardLimit { unit, limit, remaining, reset }
    }

    #[test]
    fn a_unit_is_taken_whole_from_the_most_telling_family() {
        let said = read([
            ("llm_provider-x-ratelimit-limit-tokens", "9"),
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-reset", "7s"),
            ("X-RateLimit-Remaining-Requests", "0"),
            ("x-ratelimit-remaining-requests", "3"),
            ("x-ratelimit-remaining-requests-day", "0"),
            ("x-ratelimit-reset-requests-day", "1h"),
            ("anthropic-ratelimit-output-tokens-reset", "5"),
        ]);
        assert_eq!(said.limits, [heard(Unit::Requests, None, Some(0), None), heard(Unit::Tokens, Some(9), None, None)]);
        assert_eq!((said.renewed, said.retry_after), (Some(3600.0), None));
    }

    #[test]
    fn a_value_that_is_none_gives_way_to_the_next() {
        let said = read([
            ("x-ratelimit-limit-tokens", "many"),
            ("x-rate-limit-limit-tokens", "5"),
            ("x-ratelimit-reset-tokens", "9999-12-31T00:00:00Z"),
            ("x-rate-limit-reset-tokens", "6s"),
            ("x-ratelimit-reset-tokens", "7s"),
        ]);
        assert_eq!(said.limits, [heard(Unit::Tokens, Some(5), None, Some(6.0))]);
    }

    #[test]
    fn waits_come_in_order_and_a_zero_gives_way() {
        let said = |headers: &[(&'static str, &'static str)]| read(headers.iter().copied()).retry_after;
        assert_eq!(said(&[("retry-after", "5"), ("retry-after-ms", "70")]), Some(0.07));
        assert_eq!(said(&[("retry-after-ms", "0"), ("retry-after", "3")]), Some(3.0));
        assert_eq!(said(&[("llm_provider-retry-after-ms", "2"), ("retry-after", "3")]), Some(3.0));
        assert_eq!(said(&[("retry-after-ms", "0")]), Some(0.0));
        // The first of a name counts, even one that is no time.
        assert_eq!(said(&[("retry-after", "soon"), ("retry-after", "3")]), None);
        assert_eq!(said(&[("retry-after-ms", "1s"), ("retry-after", "Sun, 27 Sep 2026 12:00:30 GMT")]), Some(30.0));
    }

    #[test]
    fn the_answers_own_date_is_the_present() {
        for (present, dates, expected) in [
            (None, ["", "Sun, 27 Sep 2026 12:00:00 GMT"], 30.0),
            (None, ["Sun, 27 Sep 2026 12:00:10 GMT", "Sun, 27 Sep 2026 12:00:00 GMT"], 20.0),
            (Some(NOON), ["Sun, 27 Sep 2026 12:00:10 GMT", ""], 30.0),
        ] {
            let mut reader = Reader::new(present);
            reader.take("Retry-After", "Sun, 27 Sep 2026 12:00:30 GMT");
            for date in dates {
                reader.take("Date", date);
            }
            assert_eq!(reader.finish().retry_after, Some(expected));
        }
        let mut reader = Reader::new(None);
        reader.take("x-ratelimit-limit", "1");
        reader.take("x-ratelimit-reset", "1000000001");
        reader.take("date", "today");
        assert_eq!(reader.finish().limits, [heard(Unit::Requests, Some(1), None, Some(0.0))]);
    }

    #[test]
    fn rejected_windows_are_a_wait_of_the_account() {
        let windows = [
            ("anthropic-ratelimit-unified-5h-status", " Rejected "),
            ("anthropic-ratelimit-unified-5h-reset", "1790510500"),
            ("llm_provider-anthropic-ratelimit-unified-7d-status", "rejected"),
            ("anthropic-ratelimit-unified-7d-reset", "1790514400"),
            ("anthropic-ratelimit-unified-overage-status", "rejected"),
            ("anthropic-ratelimit-unified-overage-reset", "1790524400"),
        ];
        let said = read(windows);
        assert_eq!((said.retry_after, said.of_account), (Some(4000.0), true));
        let paid = read(windows.into_iter().chain([("anthropic-ratelimit-unified-status", "allowed")]));
        assert_eq!(paid, Heard::default());
        // A window that is over is no wait.
        let over =
            [("anthropic-ratelimit-unified-status", "rejected"), ("anthropic-ratelimit-unified-reset", "2020-01-01 00:00:00")];
        assert_eq!(read(over), Heard::default());
        assert_eq!(read(over.into_iter().chain([("retry-after", "0")])).retry_after, Some(0.0));
    }

    #[test]
    fn structured_fields_are_less_telling_than_plain_ones() {
        let said = read([("ratelimit", "a;r=1;t=2"), ("ratelimit-policy", "a;q=5"), ("ratelimit", "a;r=9")]);
        assert_eq!(said.limits, [heard(Unit::Requests, Some(5), Some(1), Some(2.0))]);
        let said = read([("ratelimit", "a;r=0;t=2"), ("x-ratelimit-remaining", "9")]);
        assert_eq!((&*said.limits, said.renewed), (&[heard(Unit::Requests, None, Some(9), None)][..], Some(2.0)));
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let long = "1".repeat(257);
        assert_eq!(read([("retry-after", &*long), ("ratelimit", &*long), ("x-ratelimit-limit", &*long)]), Heard::default());
        assert_eq!(read([(&*"x".repeat(100_000), "5")]), Heard::default());
    }

    fn names() -> impl Strategy<Value = String> {
        let before = prop_oneof![Just(""), Just("llm_provider-")];
        let name = prop_oneof![
            "(x-ratelimit|x-rate-limit|ratelimit|x-tokenlimit)-(limit|remaining|reset)(-(requests|tokens)(-(minute|day))?)?",
            "anthropic-ratelimit-(requests|input-tokens|unified|unified-5h)-(limit|remaining|reset|status)",
            Just("retry-after".to_owned()),
            Just("retry-after-ms".to_owned()),
            Just("date".to_owned()),
            Just("ratelimit".to_owned()),
            Just("ratelimit-policy".to_owned()),
            ".{0,9}",
        ];
        (before, name).prop_map(|(before, name)| before.to_owned() + &name)
    }

    fn values() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{1,20}",
            "[0-9]{1,4}(,[0-9]{3}){0,3}(\\.[0-9]*)?",
            "([0-9]{1,3}(\\.[0-9])?(d|h|m|s|ms|µs|Âµs|ns)){1,4}",
            "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,30})?(Z|[+-][0-9]{2}:?[0-9]{2})?",
            "([A-Za-z]{3}, )?[0-9]{1,2}[ -](Jan|Feb|Sep)[ -]([0-9]{2}|[0-9]{4}) [0-9]{2}:[0-9]{2}:[0-9]{2} ?(GMT|[+-][0-9]{4})?",
            "(\"[a-c;,]{0,3}\"|[a-c]{1,3})(; ?(r|t|q|qu|pk)=\"?[0-9a-z]{0,4}\"?){0,4}(, \"?a\"?;r=[0-9])?",
            "(limit|remaining|reset)=[0-9]{0,3}(, ?(limit|remaining|reset)=[0-9]{0,3}){0,3}",
            Just("rejected".to_owned()),
            "\\PC{0,20}",
            ".{0,300}",
        ]
    }

    proptest! {
        #[test]
        fn garbage_is_no_fault(headers in proptest::collection::vec((names(), values()), 0..9), is_now in any::<bool>()) {
            let mut reader = Reader::new(is_now.then_some(NOON));
            for (name, said) in &headers {
                reader.take(name, said);
            }
            let heard = reader.finish();
            let times = heard.limits.iter().map(|limit| limit.reset).chain([heard.retry_after, heard.renewed]);
            prop_assert!(times.flatten().all(|seconds| (0.0..=MOST_SECONDS).contains(&seconds)));
            for limit in heard.limits {
                let counts = [limit.limit, limit.remaining];
                prop_assert!(counts != [None; 2] && counts.into_iter().flatten().all(|count| count <= 1_000_000_000_000_000));
            }
        }
    }
}
