//! "Did you mean": the known word that resembles a mistyped one.

/// Edits (insert, delete, replace, swap of neighbours) up to which two words resemble each other.
const MAX_EDITS: usize = 3;

/// The candidate nearest to `word`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = MAX_EDITS.min(word.chars().count().div_ceil(2));
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut older: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    let mut last = None;
    for (row, a) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let at = |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&previous, column) + usize::from(a != *b))
                .min(at(&previous, column + 1) + 1)
                .min(at(&current, column) + 1);
            let before = column.checked_sub(1);
            let swapped = before.and_then(|before| right.get(before)) == Some(&a) && last == Some(*b);
            if let (true, Some(before)) = (swapped, before) {
                best = best.min(at(&older, before) + 1);
            }
            current.push(best);
        }
        older = std::mem::replace(&mut previous, current);
        last = Some(a);
    }
    previous.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_finds_the_word_that_was_meant() {
        let known = ["url", "password_file", "publication", "slot"];
        assert_eq!(nearest("pasword_file", known), Some("password_file"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("slots", known), Some("slot"));
        assert_eq!(nearest("frobnicate", known), None);
    }
}
