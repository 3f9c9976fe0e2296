use super::*;

#[test]
fn where_a_frame_is_is_read_as_its_version_says_it() {
    let of = |minor: u32, at: u64| Shape::of(minor).unwrap().offset(0x1000, at);
    assert_eq!(of(8, 0xdead_beef_0000_0006), Some(6));
    assert_eq!(of(8, u64::from(u32::MAX)), None, "it has not begun");
    assert_eq!(of(10, 3), Some(6));
    assert_eq!(of(11, 0x1000 + 184 + 8), Some(8));
    assert_eq!(of(12, 0x1000), None, "not in its own code");
}

#[test]
fn forged_memory_is_read_and_believed_in_nothing() {
    // A page of noise that is our own.
    let mut state = 1_u64;
    let page: Vec<u64> = (0..4_096)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> (state % 64)
        })
        .collect();
    let (image, me) = (Image { id: 1, exec: 0 }, std::process::id());
    for minor in 6..=12 {
        let shape = Shape::of(minor).unwrap();
        let mut codes = Codes::default();
        for word in (0..4_000).step_by(7) {
            let code = (&raw const page[word]).addr() as u64;
            let frame =
                interpreter::Frame { code, at: page[word], first_line: 3, tag: 9, table: 0, texts: 0 };
            let place = codes.place(me, image, &shape, &frame).unwrap();
            assert!(!place.exact && place.frame.function.is_none());
        }
    }
}

/// A code object of 3.8 and what belongs to it, in our own memory.
struct Forged(Box<[u64; 64]>);

/// Where its parts are, in words.
const FILE: usize = 20;
const NAME: usize = 32;
const LINES: usize = 44;

impl Forged {
    fn new(name: &[u8; 8]) -> Self {
        let mut words = Box::new([0; 64]);
        let at = |word: usize| (&raw const words[word]).addr() as u64;
        let (file, name_at, lines) = (at(FILE), at(NAME), at(LINES));
        // What its layout says: `co_firstlineno`, `co_filename`, `co_name`, `co_lnotab`.
        (words[5], words[13], words[14], words[15]) = (7, file, name_at, lines);
        for (part, text) in [(FILE, b"crawl.py"), (NAME, name)] {
            // Its length, its state (one byte a character, compact, ASCII), itself.
            (words[part + 2], words[part + 4]) = (8, (1 | 8 | 16) << 2);
            words[part + 6] = u64::from_le_bytes(*text);
        }
        // Two bytes a step: so many bytes of code, so many lines.
        (words[LINES + 2], words[LINES + 4]) = (4, u64::from_le_bytes([4, 1, 4, 1, 0, 0, 0, 0]));
        Self(words)
    }

    /// As the kernel side writes down a frame of it.
    fn frame(&self, at: u64) -> interpreter::Frame {
        let code = self.0.as_ptr().addr() as u64;
        let said = Said::read(std::process::id(), &Shape::of(8).unwrap(), code).unwrap();
        interpreter::Frame { code, at, first_line: 7, tag: said.tag, table: said.lines, texts: said.texts }
    }
}

/// What it writes down where it could read nothing.
fn blank(frame: interpreter::Frame) -> interpreter::Frame {
    let tag = Tag::default().with(0).with(0).with(0).number();
    interpreter::Frame { first_line: 0, tag, table: 0, texts: 0, ..frame }
}

#[test]
fn what_could_not_be_read_at_a_fork_is_what_it_was_before_where_it_is_so_still() {
    let (image, me, shape) = (Image { id: 1, exec: 0 }, std::process::id(), Shape::of(8).unwrap());
    let (mut codes, mut code) = (Codes::default(), Forged::new(b"open_tab"));
    let frame = code.frame(4);
    let unknown = codes.place(me, image, &shape, &blank(frame)).unwrap();
    assert!(!unknown.exact && unknown.frame.function.is_none(), "nothing was there before");
    let known = codes.place(me, image, &shape, &frame).unwrap();
    assert!(known.exact);
    assert_eq!((known.frame.function.clone(), known.frame.line), (Some("open_tab".into()), Some(8)));
    let moved = codes.place(me, image, &shape, &blank(frame)).unwrap();
    assert!(moved.exact);
    assert_eq!(moved.frame, known.frame);
    let other = Image { id: 2, exec: 0 };
    assert!(!codes.place(me, other, &shape, &blank(frame)).unwrap().exact, "of another program");
    code.0[LINES + 4] ^= 1;
    let changed = codes.place(me, image, &shape, &blank(frame)).unwrap();
    assert!(!changed.exact && changed.frame.function.is_none(), "another one lies there");
}

#[test]
fn another_file_in_the_same_place_is_another_one() {
    let (image, me, shape) = (Image { id: 1, exec: 0 }, std::process::id(), Shape::of(8).unwrap());
    let (mut codes, mut code) = (Codes::default(), Forged::new(b"open_tab"));
    let before = code.frame(4);
    assert!(codes.place(me, image, &shape, &before).unwrap().exact);
    // Its pointers, its first line, its table: all is the same.
    code.0[FILE + 6] = u64::from_le_bytes(*b"other.py");
    let after = code.frame(4);
    assert_eq!((after.tag, after.table), (before.tag, before.table));
    let place = codes.place(me, image, &shape, &after).unwrap();
    assert!(place.exact);
    assert_eq!(place.frame.file, Some("other.py".into()));
    assert_eq!(codes.place(me, image, &shape, &before).unwrap().frame.file, Some("crawl.py".into()));
}

#[test]
fn what_could_not_all_be_read_at_a_fork_is_not_said_to_be_exact() {
    let (image, me, shape) = (Image { id: 1, exec: 0 }, std::process::id(), Shape::of(8).unwrap());
    let (mut codes, code) = (Codes::default(), Forged::new(b"open_tab"));
    let whole = code.frame(4);
    for part in [interpreter::Frame { table: 0, ..whole }, interpreter::Frame { texts: 0, ..whole }] {
        let place = codes.place(me, image, &shape, &part).unwrap();
        assert_eq!((place.exact, place.frame.line), (false, None));
        assert_eq!(place.frame.function.is_some(), part.texts != 0);
    }
    // Now it is known which one it is.
    assert!(codes.place(me, image, &shape, &whole).unwrap().exact);
    assert!(codes.place(me, image, &shape, &interpreter::Frame { texts: 0, ..whole }).unwrap().exact);
    let other = interpreter::Frame { texts: 0, table: whole.table ^ 2, ..whole };
    assert!(!codes.place(me, image, &shape, &other).unwrap().exact);
}

#[test]
fn where_two_were_in_turns_a_part_is_neither() {
    let (image, me, shape) = (Image { id: 1, exec: 0 }, std::process::id(), Shape::of(8).unwrap());
    let (mut codes, mut code) = (Codes::default(), Forged::new(b"open_tab"));
    let first = code.frame(4);
    code.0[LINES + 4] ^= 1;
    let second = code.frame(4);
    assert!(codes.place(me, image, &shape, &second).unwrap().exact);
    assert!(codes.place(me, image, &shape, &blank(second)).unwrap().exact, "there was no other");
    code.0[LINES + 4] ^= 1;
    assert!(codes.place(me, image, &shape, &first).unwrap().exact);
    // The first one is there again, and who knows what was in between.
    for part in [blank(first), interpreter::Frame { table: 0, ..second }] {
        let place = codes.place(me, image, &shape, &part).unwrap();
        assert!(!place.exact && place.frame.line.is_none());
    }
}

#[test]
fn behind_what_is_compared_of_a_table_no_line_is_told() {
    let (image, me, shape) = (Image { id: 1, exec: 0 }, std::process::id(), Shape::of(8).unwrap());
    let mut code = Forged::new(b"open_tab");
    // A line for each byte of the code, more of them than are compared.
    let table: Box<[u64]> = [2, 0, 0, 0]
        .into_iter()
        .chain(std::iter::repeat_n(u64::from_le_bytes([1; 8]), TABLE / 8 + 1))
        .collect();
    let mut table = table;
    table[2] = TABLE as u64 + 8;
    code.0[15] = table.as_ptr().addr() as u64;
    let mut codes = Codes::default();
    let mut line = |at: u64| codes.place(me, image, &shape, &code.frame(at)).unwrap().frame.line;
    assert_eq!((line(0), line(4)), (Some(7), Some(11)));
    let steps = TABLE as u64 / 2;
    assert_eq!(line(steps - 1), Some(u32::try_from(7 + steps - 1).unwrap()));
    assert_eq!((line(steps), line(steps + 1)), (None, None));
}
