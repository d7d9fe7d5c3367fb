//! One line's entries, read and replaced whole.

use std::marker::PhantomData;

use super::super::memory::{AtomicU64, Line, Ordering};
use super::key::Key;
use super::word::Word;

/// A line as its entries: each is the key's words and then the value word.
#[derive(Debug)]
pub(super) struct Entries<'a, K> {
    line: &'a Line,
    key: PhantomData<K>,
}

impl<'a, K: Key> Entries<'a, K> {
    const STRIDE: usize = K::WORDS + 1;

    #[inline]
    pub(super) fn of(line: &'a Line) -> Self {
        const { assert!(K::ENTRIES * Self::STRIDE <= super::super::memory::LINE_WORDS) };
        Self { line, key: PhantomData }
    }

    #[inline]
    fn key_word(&self, entry: usize, index: usize) -> &'a AtomicU64 {
        &self.line.0[entry * Self::STRIDE + index]
    }

    #[inline]
    fn value(&self, entry: usize) -> &'a AtomicU64 {
        &self.line.0[entry * Self::STRIDE + K::WORDS]
    }

    /// The value word now.
    #[inline]
    pub(super) fn word(&self, entry: usize) -> Word {
        Word(self.value(entry).load(Ordering::SeqCst))
    }

    /// The line's marks now.
    #[inline]
    pub(super) fn marks(&self) -> u64 {
        self.word(0).marks()
    }

    #[inline]
    fn has_key(&self, entry: usize, key: &K) -> bool {
        (0..K::WORDS)
            .fold(true, |same, index| same & (self.key_word(entry, index).load(Ordering::Acquire) == key.word(index)))
    }

    /// The entries that seem to have this key, a bit each. Without a branch for each entry: which one it is cannot be
    /// predicted.
    #[inline]
    pub(super) fn candidates(&self, key: &K) -> u32 {
        (0..K::ENTRIES).fold(0, |set, entry| set | u32::from(self.has_key(entry, key)) << entry)
    }

    /// The live entry of this key, and its value word.
    #[inline]
    pub(super) fn find(&self, key: &K) -> Option<(u32, Word)> {
        let mut candidates = self.candidates(key);
        while candidates != 0 {
            let entry = candidates.trailing_zeros();
            if let Some(word) = self.read(entry as usize, key)
                && !word.is_pending()
            {
                return Some((entry, word));
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// The value word of the first entry that seems to be this key's, if it is; live or not. `None` says nothing.
    #[inline]
    pub(super) fn find_at_once(&self, key: &K) -> Option<Word> {
        let entry = self.candidates(key).trailing_zeros() as usize;
        if entry >= K::ENTRIES {
            return None;
        }
        let word = self.word(entry);
        let is_same = word.destination_port() == key.destination_port();
        // Word, key, word, as in `read`.
        (is_same && self.has_key(entry, key) && self.word(entry) == word).then_some(word)
    }

    /// The value word of an entry that is this key's and that is live or pending; see the module's documentation for
    /// why it is.
    #[inline]
    pub(super) fn read(&self, entry: usize, key: &K) -> Option<Word> {
        loop {
            let word = self.word(entry);
            if (word.state().is_none() && !word.is_pending())
                || word.destination_port() != key.destination_port()
                || !self.has_key(entry, key)
            {
                return None;
            }
            if self.word(entry) == word {
                return Some(word);
            }
        }
    }

    /// An entry's key together with its value word, whatever they are; not to be used unless live or pending.
    #[inline]
    pub(super) fn read_any(&self, entry: usize) -> (K, Word) {
        loop {
            let word = self.word(entry);
            let mut words = [0; 3];
            for (index, slot) in words.iter_mut().enumerate().take(K::WORDS) {
                *slot = self.key_word(entry, index).load(Ordering::Acquire);
            }
            if self.word(entry) == word {
                return (K::from_words(words, word.destination_port()), word);
            }
        }
    }

    /// Replaces the value word if it is `from` but for the marks, which stay; says whether it did.
    #[inline]
    pub(super) fn replace(&self, entry: usize, from: Word, to: Word) -> bool {
        let mut current = from;
        loop {
            let new = to.with_marks_of(current);
            match self.value(entry).compare_exchange(current.0, new.0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(actual) if Word(actual).without_marks() == from.without_marks() => current = Word(actual),
                Err(_) => return false,
            }
        }
    }

    /// Writes a claimed entry's key. Only the one who claimed it calls this, before the entry is pending.
    #[inline]
    pub(super) fn write_key(&self, entry: usize, key: &K) {
        for index in 0..K::WORDS {
            self.key_word(entry, index).store(key.word(index), Ordering::Release);
        }
    }

    /// Sets marks of the line.
    pub(super) fn set_marks(&self, marks: u64) {
        self.value(0).fetch_or(marks, Ordering::SeqCst);
    }

    /// Takes marks from the line; writes nothing if they are not there.
    pub(super) fn clear_marks(&self, marks: u64) {
        if self.marks() & marks != 0 {
            self.value(0).fetch_and(!marks, Ordering::SeqCst);
        }
    }
}
