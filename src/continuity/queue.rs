//! A queue that seldom holds more than one: the first in it stands in place, and only those behind it take memory of their own.

use std::collections::VecDeque;

/// First in, first out.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    /// There whenever anything is.
    first: Option<T>,
    /// Since there have been several at once.
    #[expect(
        clippy::box_collection,
        reason = "a session has several queues, and seldom anything in their rest: three words less"
    )]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Queue<T> {
    /// Nothing is in it.
    pub const fn new() -> Self {
        Self { first: None, rest: None }
    }

    /// Nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// So many are in it.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Adds one behind all others.
    pub fn push_back(&mut self, one: T) {
        if self.first.is_none() {
            self.first = Some(one);
        } else {
            self.rest.get_or_insert_default().push_back(one);
        }
    }

    /// Takes the one that has been in it longest.
    pub fn pop_front(&mut self) -> Option<T> {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    /// The one that has been in it longest.
    pub const fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    /// The same, to be changed.
    pub const fn front_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    /// The one that came last.
    pub fn back(&self) -> Option<&T> {
        self.rest.as_ref().and_then(|rest| rest.back()).or(self.first.as_ref())
    }

    /// The same, to be changed.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.rest.as_mut().and_then(|rest| rest.back_mut()).or(self.first.as_mut())
    }

    /// The one behind so many others, to be changed.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        match at.checked_sub(1) {
            None => self.first.as_mut(),
            Some(at) => self.rest.as_mut()?.get_mut(at),
        }
    }

    /// Takes the one behind so many others.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        match at.checked_sub(1) {
            None => self.pop_front(),
            Some(at) => self.rest.as_mut()?.remove(at),
        }
    }

    /// Throws those away that are not to be kept; asks in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let first = self.first.take().filter(&mut keep);
        if let Some(rest) = &mut self.rest {
            rest.retain(keep);
        }
        self.first = first.or_else(|| self.rest.as_mut()?.pop_front());
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// Throws all away.
    pub fn clear(&mut self) {
        self.first = None;
        if let Some(rest) = &mut self.rest {
            rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn does_what_any_queue_does(steps in prop::collection::vec(0_u32..5, 0..200)) {
            let (mut queue, mut model) = (Queue::<usize>::new(), VecDeque::<usize>::new());
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    0 => prop_assert_eq!(queue.pop_front(), model.pop_front()),
                    1 if at % 20 == 0 => {
                        queue.clear();
                        model.clear();
                    }
                    1 => {
                        queue.retain(|one: &usize| !one.is_multiple_of(3));
                        model.retain(|one: &usize| !one.is_multiple_of(3));
                    }
                    2 if at % 3 == 0 => prop_assert_eq!(queue.remove(at % 4), model.remove(at % 4)),
                    2 => {
                        prop_assert_eq!(queue.get_mut(at % 4), model.get_mut(at % 4));
                        if let (Some(ours), Some(theirs)) = (queue.back_mut(), model.back_mut()) {
                            (*ours, *theirs) = (at, at);
                        }
                    }
                    _ => {
                        queue.push_back(at);
                        model.push_back(at);
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!((queue.front(), queue.back()), (model.front(), model.back()));
                prop_assert!(queue.iter().eq(model.iter()) && queue.iter().rev().eq(model.iter().rev()));
            }
        }
    }
}
