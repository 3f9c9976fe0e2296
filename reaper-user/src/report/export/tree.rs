//! Paths that begin alike, joined: what a picture of them shows.

use std::collections::HashMap;

use super::Sample;

/// Where paths begin alike and where they part.
#[derive(Debug)]
pub(super) struct Tree {
    /// The first is above all others.
    nodes: Vec<Node>,
}

/// One step that one or more paths go through.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// What it says.
    pub(super) text: String,
    /// Zombies of all paths through it.
    pub(super) standing: u64,
    pub(super) total: u64,
    children: Vec<usize>,
}

/// A node's place in a picture that is one wide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spot {
    /// Which node.
    pub(super) node: usize,
    /// How many are above it.
    pub(super) depth: usize,
    /// Where it begins, in zombies from the left.
    pub(super) begins: u64,
}

impl Tree {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut nodes = vec![Node { text: "all".to_owned(), ..Node::default() }];
        let mut known: HashMap<(usize, String), usize> = HashMap::new();
        for sample in samples.iter().filter(|sample| sample.total > 0) {
            let mut at = 0;
            count(&mut nodes, at, sample);
            for place in &sample.path {
                let text = place.text();
                at = match known.get(&(at, text.clone())) {
                    Some(child) => *child,
                    None => {
                        let child = nodes.len();
                        nodes.push(Node { text: text.clone(), ..Node::default() });
                        if let Some(parent) = nodes.get_mut(at) {
                            parent.children.push(child);
                        }
                        known.insert((at, text), child);
                        child
                    }
                };
                count(&mut nodes, at, sample);
            }
        }
        Self { nodes }
    }

    pub(super) fn node(&self, number: usize) -> Option<&Node> {
        self.nodes.get(number)
    }

    /// Zombies in all.
    pub(super) fn total(&self) -> u64 {
        self.nodes.first().map_or(0, |root| root.total)
    }

    /// Every node that is at least `least` zombies wide, each before those below it, siblings by their size; and how many are
    /// too narrow.
    pub(super) fn spots(&self, least: u64) -> (Vec<Spot>, usize) {
        let mut spots = Vec::new();
        let mut open = vec![Spot { node: 0, depth: 0, begins: 0 }];
        while let Some(spot) = open.pop() {
            let Some(node) = self.nodes.get(spot.node).filter(|node| node.total >= least) else { continue };
            spots.push(spot);
            let mut children = node.children.clone();
            // The last is taken first.
            children.sort_by_key(|child| self.nodes.get(*child).map_or(0, |child| child.total));
            let mut begins = spot.begins;
            let mut below = Vec::new();
            for child in children.into_iter().rev() {
                below.push(Spot { node: child, depth: spot.depth + 1, begins });
                begins += self.nodes.get(child).map_or(0, |child| child.total);
            }
            open.extend(below.into_iter().rev());
        }
        let narrow = self.nodes.len() - spots.len();
        (spots, narrow)
    }
}

fn count(nodes: &mut [Node], at: usize, sample: &Sample) {
    if let Some(node) = nodes.get_mut(at) {
        node.standing = node.standing.saturating_add(sample.standing);
        node.total = node.total.saturating_add(sample.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::export::fixture;

    #[test]
    fn paths_that_begin_alike_share_their_beginning() {
        let tree = Tree::of(&fixture::samples());
        let (spots, narrow) = tree.spots(1);
        let shown: Vec<_> = spots
            .iter()
            .map(|spot| {
                let node = tree.node(spot.node).unwrap();
                (spot.depth, spot.begins, node.total, node.standing, node.text.as_str())
            })
            .collect();
        assert_eq!(
            shown,
            [
                (0, 0, 42, 4, "all"),
                (1, 0, 40, 4, "crawler"),
                (2, 0, 40, 4, "python3"),
                (3, 0, 40, 4, "main /srv/crawl.py:7"),
                (4, 0, 30, 3, "open_browser /srv/crawl.py:42"),
                (4, 30, 10, 1, "open_browser /srv/crawl.py:58"),
                (1, 40, 2, 0, "host"),
                (2, 40, 2, 0, "sh"),
            ]
        );
        assert_eq!((narrow, tree.total()), (0, 42));
    }

    #[test]
    fn what_is_too_narrow_to_be_seen_is_counted() {
        let (spots, narrow) = Tree::of(&fixture::samples()).spots(10);
        assert_eq!((spots.len(), narrow), (6, 2));
    }

    #[test]
    fn of_nothing_there_is_only_the_root() {
        let tree = Tree::of(&[]);
        assert_eq!((tree.spots(1), tree.total()), ((Vec::new(), 1), 0));
    }
}
