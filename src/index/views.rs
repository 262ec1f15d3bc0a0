//! Trees over the members that have the tags and the dialect of some requests, and are under no quota that
//! stops them.
//!
//! Such a set of members that is asked for a second time gets a tree of its own. Below, these labels and the
//! spent quotas of a request are its *set*. The leaves of a tree are those of the group's tree, for the
//! members of the set. There are at most [`MOST`] such trees. A further set takes the tree of a set that no
//! request has asked for in a long while. If there is no such set, a walk serves the further set: so trees
//! are not made all the time when there are more sets than trees. The renewals of a tree are counted since
//! the last request for it. A tree goes when they have cost more than making it anew.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::member::{Member, Members, members};
use super::obstacle::QuotaBits;
use super::tree::Tree;
use crate::base::labels::{Dialect, Labels};
use crate::facts::Wishes;
use crate::strategy::Rule;

/// The most trees. Each has one bit of [`Place::views`](super::member::Place).
const MOST: usize = 8;

/// The number of tag sets without a tree that are remembered.
const MOST_SEEN: usize = 16;

/// A tag set takes another set's tree when this many requests have asked for it since the last request for
/// the other set. To make a tree costs about as much as a few walks.
const WORTH: u32 = 8;

/// The longest tag set that may get a tree: its bytes, and 8 more for each tag. Longer sets are left to a
/// walk. Tag sets come from requests, and are compared and kept under a lock.
const LONGEST: usize = 256;

/// A set with a tree.
#[derive(Debug)]
struct View<R: Rule> {
    /// The wishes for labels.
    wishes: Wishes,
    /// The quotas that no member is under.
    spent: QuotaBits,
    tree: Tree<R>,
    /// When it was last asked for: the number of requests with tags up to then.
    used_at: u64,
    /// How many leaves were renewed since then.
    renewals: usize,
}

/// A set without a tree. It is known by its hash alone: if two sets have the same hash, one gets its tree
/// sooner.
#[derive(Debug)]
struct Seen {
    hash: u64,
    asked_at: u64,
    /// The requests for this set since its rival was last asked for. The rival is a set that has a tree.
    times: u32,
    since: u64,
}

#[derive(Debug)]
pub(super) struct Views<R: Rule> {
    /// The trees, each at the place of its bit.
    kept: Vec<Option<View<R>>>,
    seen: Vec<Seen>,
    /// How many requests with tags there were.
    asked: u64,
}

impl<R: Rule> Default for Views<R> {
    fn default() -> Self {
        Self { kept: Vec::new(), seen: Vec::new(), asked: 0 }
    }
}

/// Returns what tells the labels that requests ask for apart.
fn key(wishes: &Wishes) -> (Option<Dialect>, bool, &[String]) {
    (wishes.dialect, wishes.any_tag, &wishes.tags)
}

impl<R: Rule> View<R> {
    fn accepts(&self, labels: Labels<'_>, quotas: QuotaBits) -> bool {
        quotas & self.spent == 0 && self.wishes.accepts(labels)
    }
}

impl<R: Rule> Views<R> {
    /// Returns the tree for the tags of a request, and the quotas that stop it. None if there is none yet, so
    /// that a walk must serve the request.
    pub(super) fn get<M: Member>(
        &mut self,
        wishes: Option<&Wishes>,
        spent: QuotaBits,
        members: &Members<M>,
        all: &Tree<R>,
    ) -> Option<&Tree<R>> {
        let any = Wishes::default();
        let wishes = wishes.unwrap_or(&any);
        if wishes.tags.iter().map(|tag| tag.len() + 8).sum::<usize>() > LONGEST {
            return None;
        }
        self.asked += 1;
        let is_it = |view: &View<R>| view.spent == spent && key(&view.wishes) == key(wishes);
        let nth = match self.kept.iter().position(|view| view.as_ref().is_some_and(is_it)) {
            Some(nth) => nth,
            None => self.make(wishes, spent, members, all)?,
        };
        let view = self.kept.get_mut(nth)?.as_mut()?;
        (view.used_at, view.renewals) = (self.asked, 0);
        Some(&view.tree)
    }

    /// Makes a tree for a set that has none, if it pays.
    #[cold]
    fn make<M: Member>(&mut self, wishes: &Wishes, spent: QuotaBits, members: &Members<M>, all: &Tree<R>) -> Option<usize> {
        let place = self.place_for(FxBuildHasher.hash_one((key(wishes), spent)))?;
        let wishes = Wishes { tags: wishes.tags.clone(), any_tag: wishes.any_tag, dialect: wishes.dialect, ..Wishes::default() };
        let mut view = View { wishes, spent, tree: Tree::new(all.leaves()), used_at: self.asked, renewals: 0 };
        for (position, member) in self::members(members) {
            let matches = view.accepts(member.labels(), member.quotas());
            member.place().set_view(place, matches);
            if matches {
                view.tree.copy(position, all);
            }
        }
        view.tree.join_all();
        *self.kept.get_mut(place)? = Some(view);
        Some(place)
    }

    /// Returns the place of a new tree for a tag set; None if the set does not get one yet.
    fn place_for(&mut self, hash: u64) -> Option<usize> {
        let Some(nth) = self.seen.iter().position(|seen| seen.hash == hash) else {
            if self.seen.len() == MOST_SEEN {
                let (least, _) = self.seen.iter().enumerate().min_by_key(|(_, seen)| (seen.times, seen.asked_at))?;
                self.seen.swap_remove(least);
            }
            self.seen.push(Seen { hash, asked_at: self.asked, times: 1, since: self.asked });
            return None;
        };
        let seen = self.seen.get_mut(nth)?;
        seen.asked_at = self.asked;
        self.kept.resize_with(MOST, || None);
        // A free place counts as a set that no request ever asked for.
        let used_at = |view: &Option<View<R>>| view.as_ref().map(|view| view.used_at);
        let (place, view) = self.kept.iter().enumerate().min_by_key(|(_, view)| used_at(view))?;
        if let Some(used_at) = used_at(view) {
            if used_at > seen.since {
                (seen.since, seen.times) = (self.asked, 0);
            }
            seen.times += 1;
            if seen.times < WORTH {
                return None;
            }
        }
        self.seen.swap_remove(nth);
        Some(place)
    }

    /// Returns which trees a member with these labels and quotas is in, one bit each.
    pub(super) fn of(&self, labels: Labels<'_>, quotas: QuotaBits) -> u8 {
        let accepts = |view: &Option<View<R>>| view.as_ref().is_some_and(|view| view.accepts(labels, quotas));
        self.kept.iter().enumerate().fold(0, |views, (nth, view)| views | u8::from(accepts(view)) << nth)
    }

    /// Calls `renew` for the trees that a member is in, after its leaf was renewed.
    #[inline]
    pub(super) fn renew(&mut self, views: u8, renew: impl Fn(&mut Tree<R>)) {
        if views == 0 {
            return;
        }
        for (_, place) in self.kept.iter_mut().enumerate().filter(|&(nth, _)| views & (1 << nth) != 0) {
            if let Some(view) = place {
                renew(&mut view.tree);
                view.renewals += 1;
                if view.renewals > 2 * view.tree.leaves() {
                    *place = None;
                }
            }
        }
    }

    /// Returns all trees.
    pub(super) fn trees(&mut self) -> impl Iterator<Item = (u8, &mut Tree<R>)> {
        self.kept.iter_mut().enumerate().filter_map(|(nth, view)| Some((1 << nth, &mut view.as_mut()?.tree)))
    }

    /// Returns whether these tags have a tree.
    #[cfg(test)]
    pub(super) fn has(&self, tags: &[String]) -> bool {
        self.kept.iter().flatten().any(|view| view.wishes.tags == tags)
    }
}
