//! A page with a picture: what leaks, from the outermost place at the top to the innermost at the bottom, as wide as it is
//! much. It needs nothing from elsewhere, and shows the same where scripts do not run; with them, it can be searched.

use std::fmt::Write as _;

use super::{super::numbered, Sample, tree::Tree};

/// The picture is cut where a step is narrower than one part in so many.
const PARTS: u64 = 4_000;

/// Rows of the table below the picture, at most.
const ROWS: usize = 500;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page. `about` is a line on what it shows.
#[must_use]
pub fn html(samples: &[Sample], about: &str) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    // Nothing is loaded and nothing is sent, whatever a name may contrive.
    page.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n",
    );
    page.push_str("<title>reaper: leak sites</title>\n");
    let _ = write!(page, "<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Leak sites</h1>\n<p>");
    push(&mut page, about);
    page.push_str("</p>\n<p id=\"tools\" hidden><input id=\"search\" type=\"search\" placeholder=\"function, file, workload\"> <span id=\"found\"></span></p>\n");
    picture(&mut page, samples);
    table(&mut page, samples);
    let _ = write!(page, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

fn picture(page: &mut String, samples: &[Sample]) {
    let tree = Tree::of(samples);
    let whole = tree.total();
    let (spots, narrow) = tree.spots((whole / PARTS).max(1));
    let depth = spots.iter().map(|spot| spot.depth + 1).max().unwrap_or(0);
    let _ = writeln!(page, "<div id=\"picture\" style=\"height:{}em\">", depth * 2);
    for spot in spots {
        let Some(node) = tree.node(spot.node) else { continue };
        let (left, width) = (percent(spot.begins, whole), percent(node.total, whole));
        let _ = write!(
            page,
            "<div class=\"c{}\" style=\"left:{left}%;width:{width}%;top:{}em\" title=\"",
            colour(&node.text),
            spot.depth * 2
        );
        push(page, &node.text);
        let zombies = numbered(node.total, "zombie", "zombies");
        let _ = write!(page, ": {zombies}, {} of them stand ({width}%)\">", node.standing);
        push(page, &node.text);
        page.push_str("</div>\n");
    }
    page.push_str("</div>\n");
    if whole > 0 && narrow > 0 {
        let _ = writeln!(page, "<p>{narrow} places are too narrow to be shown.</p>");
    }
}

fn table(page: &mut String, samples: &[Sample]) {
    page.push_str("<table>\n<tr><th>site<th>standing<th>total<th>quality<th>workload<th>innermost</tr>\n");
    let mut sorted: Vec<_> = samples.iter().collect();
    sorted.sort_by_key(|sample| std::cmp::Reverse((sample.total, sample.standing)));
    for sample in sorted.iter().take(ROWS) {
        let Sample { path, standing, total, site, workload, quality } = sample;
        page.push_str("<tr><td>");
        push(page, site.as_str());
        let _ = write!(page, "<td class=\"n\">{standing}<td class=\"n\">{total}<td>{quality}<td>");
        push(page, workload.as_str());
        page.push_str("<td>");
        push(page, &path.last().map(super::Place::text).unwrap_or_default());
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    if let Some(more) = samples.len().checked_sub(ROWS).filter(|more| *more > 0) {
        let _ = writeln!(page, "<p>{more} more sites are not in this table.</p>");
    }
}

/// Of a hundred, with four digits behind the point.
fn percent(part: u64, whole: u64) -> String {
    let millionths = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    format!("{}.{:04}", millionths / 10_000, millionths % 10_000)
}

/// One of twelve, always the same for the same text.
fn colour(text: &str) -> u32 {
    text.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 12
}

/// Text, as text: in an element and in an attribute in double quotes.
fn push(page: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            '`' => page.push_str("&#96;"),
            _ => page.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::export::fixture;

    #[test]
    fn a_page_shows_every_path_without_a_script() {
        let page = html(&fixture::samples(), "3 sites");
        let (before, _) = page.split_once("<script>").unwrap();
        for part in [
            "<p>3 sites</p>",
            "left:0.0000%;width:71.4285%;top:8em",
            "left:71.4285%;width:23.8095%;top:8em",
            ">open_browser /srv/crawl.py:42</div>",
            "open_browser /srv/crawl.py:58: 10 zombies, 1 of them stand (23.8095%)",
            "<td>0a1b2c3d<td class=\"n\">3<td class=\"n\">30<td>exact",
        ] {
            assert!(before.contains(part), "{part}\n{before}");
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = html(&fixture::samples(), "");
        for part in ["http:", "https:", "src=", "href=", "url(", "@import", "fetch", "innerHTML", "eval"] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn no_name_becomes_an_element_or_leaves_its_attribute() {
        let plain = html(&[], "");
        let page = html(&[fixture::hostile()], "<about>\"");
        for part in ["<b>", "<img", "<i>", "<about>", "alert(1)</script>", "</style>;", "&amp; x"] {
            assert!(!page.contains(part), "{part}\n{page}");
        }
        let count = |page: &str, part: &str| page.matches(part).count();
        for part in ["<script", "</script", "<style", "</style"] {
            assert_eq!(count(&page, part), count(&plain, part), "{part}");
        }
        assert!(
            page.contains("&lt;b&gt;;")
                && page.contains("&quot;&gt;&lt;i&gt;")
                && page.contains("&amp;amp; x=&#96;y&#96;")
        );
        assert!(!page.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'));
    }

    #[test]
    fn many_sites_make_a_page_that_a_browser_bears() {
        let one = &fixture::samples()[0];
        let many: Vec<_> = (0..20_000)
            .map(|number| {
                let mut sample = one.clone();
                sample.path.push(super::super::Place::named(format!("f{number}").as_str().into()));
                sample.total = 1;
                sample
            })
            .collect();
        let page = html(&many, "");
        assert!(page.len() < 1 << 20, "{}", page.len());
        assert!(page.contains("20000 places are too narrow to be shown."), "{}", &page[page.len() - 4_000..]);
        assert!(page.contains("19500 more sites are not in this table."));
    }
}
