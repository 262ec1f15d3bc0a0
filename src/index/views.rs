//! Trees over the members that have the tags of some requests.
//!
//! A tag set that is asked for a second time gets a tree of its own, whose leaves are those of the group's tree where a member has the
//! tags. There are at most [`MOST`]; a further set takes the place of one that nobody has asked for in a long while, and is otherwise
//! left to a walk, so that more sets than trees do not make trees all the time.

use std::hash::BuildHasher;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::Members;
use super::tree::Tree;
use crate::select::Wishes;
use crate::strategy::Rule;

/// One bit of [`Home::views`](crate::registry::Home) each.
const MOST: usize = 8;

/// So many tag sets that have no tree are remembered.
const MOST_SEEN: usize = 16;

/// A tag set takes another one's tree when it was asked for so often since anybody asked for that one. A tree costs about as much as a
/// few walks.
const WORTH: u32 = 8;

/// The tags of a request.
#[derive(Debug)]
struct TagSet {
    wishes: Wishes,
    hash: u64,
}

impl TagSet {
    /// The order of the tags does not matter.
    fn hash(wishes: &Wishes) -> u64 {
        let tags = wishes.tags.iter().map(|tag| FxBuildHasher.hash_one(tag));
        tags.fold(u64::from(wishes.any_tag), u64::wrapping_add)
    }

    fn is(&self, wishes: &Wishes, hash: u64) -> bool {
        let has = |tag: &String| self.wishes.tags.contains(tag);
        self.hash == hash
            && self.wishes.any_tag == wishes.any_tag
            && self.wishes.tags.len() == wishes.tags.len()
            && wishes.tags.iter().all(has)
    }
}

/// A tag set with a tree.
#[derive(Debug)]
struct View<R: Rule> {
    tags: TagSet,
    tree: Tree<R>,
    /// When it was last asked for, in requests with tags.
    used_at: u64,
}

/// A tag set without a tree.
#[derive(Debug)]
struct Seen {
    tags: TagSet,
    /// How often it was asked for since a time after which nobody asked for some set that has a tree.
    times: u32,
    since: u64,
}

#[derive(Debug)]
pub(super) struct Views<R: Rule> {
    kept: Vec<View<R>>,
    seen: Vec<Seen>,
    /// How many requests with tags there were.
    asked: u64,
}

impl<R: Rule> Default for Views<R> {
    fn default() -> Self {
        Self { kept: Vec::new(), seen: Vec::new(), asked: 0 }
    }
}

impl<R: Rule> Views<R> {
    /// The tree for the tags of a request; None if a walk has to do.
    pub(super) fn get<T>(&mut self, wishes: &Wishes, members: &Members<T>, all: &Tree<R>) -> Option<&Tree<R>> {
        self.asked += 1;
        let hash = TagSet::hash(wishes);
        let nth = match self.kept.iter().position(|view| view.tags.is(wishes, hash)) {
            Some(nth) => nth,
            None => self.make(wishes, hash, members, all)?,
        };
        let view = self.kept.get_mut(nth)?;
        view.used_at = self.asked;
        Some(&view.tree)
    }

    /// Makes a tree for tags that have none, if that is worth its while.
    #[cold]
    fn make<T>(&mut self, wishes: &Wishes, hash: u64, members: &Members<T>, all: &Tree<R>) -> Option<usize> {
        let Some(nth) = self.seen.iter().position(|seen| seen.tags.is(wishes, hash)) else {
            if self.seen.len() == MOST_SEEN {
                self.seen.remove(0);
            }
            let wishes = Wishes { tags: wishes.tags.clone(), any_tag: wishes.any_tag, ..Wishes::default() };
            self.seen.push(Seen { tags: TagSet { wishes, hash }, times: 1, since: self.asked });
            return None;
        };
        let seen = self.seen.get_mut(nth)?;
        let mut place = self.kept.len();
        if place == MOST {
            let (stalest, view) = self.kept.iter().enumerate().min_by_key(|(_, view)| view.used_at)?;
            if view.used_at > seen.since {
                (seen.since, seen.times) = (self.asked, 0);
            }
            seen.times += 1;
            if seen.times < WORTH {
                return None;
            }
            place = stalest;
        }
        let mut view = View { tags: self.seen.remove(nth).tags, tree: Tree::new(all.leaves()), used_at: self.asked };
        for (position, member) in super::members(members) {
            let matches = view.tags.wishes.accept_tags(member.deployment().tags());
            member.home.set_view(place, matches);
            if matches {
                view.tree.copy(position, all);
            }
        }
        view.tree.join_all();
        match self.kept.get_mut(place) {
            Some(stale) => *stale = view,
            None => self.kept.push(view),
        }
        Some(place)
    }

    /// Which trees a member with these tags is in, one bit each.
    pub(super) fn of_tags(&self, tags: &[Arc<str>]) -> u8 {
        let bits = self.kept.iter().enumerate().map(|(nth, view)| u8::from(view.tags.wishes.accept_tags(tags)) << nth);
        bits.fold(0, |views, bit| views | bit)
    }

    /// Whether these tags have a tree.
    #[cfg(test)]
    pub(super) fn has(&self, tags: &[String]) -> bool {
        self.kept.iter().any(|view| view.tags.wishes.tags == tags)
    }

    /// The trees that a member is in.
    #[inline]
    pub(super) fn trees(&mut self, views: u8) -> impl Iterator<Item = &mut Tree<R>> {
        let is_in = move |nth: usize| views & (1 << nth) != 0;
        self.kept.iter_mut().enumerate().filter(move |&(nth, _)| is_in(nth)).map(|(_, view)| &mut view.tree)
    }

    /// All trees.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Tree<R>> {
        self.trees(u8::MAX)
    }
}
