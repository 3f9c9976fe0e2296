use super::*;

/// A BTF blob with a tracepoint `demo(struct outer *)`, where
/// `struct outer { int a; union { u64 b; }; struct inner *next; struct inner *list[3]; int bits:3; }`
/// and `struct inner { int id; }`.
fn blob() -> Vec<u8> {
    let strings: Vec<&str> = vec![
        "int",
        "u64",
        "outer",
        "inner",
        "a",
        "b",
        "next",
        "list",
        "bits",
        "id",
        "btf_trace_demo",
        "e",
        "e_two",
        "demo",
    ];
    let mut table = vec![0u8];
    let mut name = HashMap::new();
    for string in strings {
        name.insert(string, u32::try_from(table.len()).unwrap());
        table.extend(string.bytes());
        table.push(0);
    }
    let info = |kind: u32, vlen: u32| (kind << 24) | vlen;
    let mut words: Vec<u32> = Vec::new();
    words.extend([name["int"], info(KIND_INT, 0), 4, 0]); // 1
    words.extend([name["u64"], info(KIND_INT, 0), 8, 0]); // 2
    words.extend([name["inner"], info(KIND_STRUCT, 1), 4, name["id"], 1, 0]); // 3
    words.extend([0, info(KIND_PTR, 0), 3]); // 4
    words.extend([0, info(KIND_ARRAY, 0), 0, 4, 1, 3]); // 5
    words.extend([0, info(KIND_UNION, 1), 8, name["b"], 2, 0]); // 6
    words.extend([name["outer"], (1 << 31) | info(KIND_STRUCT, 5), 56]); // 7
    words.extend([name["a"], 1, 0]);
    words.extend([0, 6, 64]);
    words.extend([name["next"], 4, 128]);
    words.extend([name["list"], 5, 192]);
    words.extend([name["bits"], 1, (3 << 24) | 384]);
    words.extend([0, info(KIND_PTR, 0), 7]); // 8
    words.extend([0, info(KIND_FUNC_PROTO, 2), 0, 0, 0, 0, 8]); // 9
    words.extend([0, info(KIND_PTR, 0), 9]); // 10
    words.extend([name["btf_trace_demo"], info(KIND_TYPEDEF, 0), 10]); // 11
    words.extend([name["e"], info(KIND_ENUM, 1), 4, name["e_two"], 2]); // 12
    words.extend([name["demo"], info(KIND_FUNC, 0), 9]); // 13
    let length = u32::try_from(words.len() * 4).unwrap();
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, length, length, u32::try_from(table.len()).unwrap()].iter().chain(&words) {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(table);
    bytes
}

#[test]
fn functions_are_found_with_how_many_arguments_they_take_and_structures_by_their_names() {
    let blob = blob();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(["demo", "outer", "other"].map(|name| btf.arguments(name)), [Some(2), None, None]);
    assert_eq!(["outer", "demo", "other"].map(|name| btf.has_structure(name)), [true, false, false]);
}

#[test]
fn members_are_found_through_anonymous_unions_arrays_and_pointers() {
    let blob = blob();
    let btf = Btf::parse(&blob).unwrap();
    let root = btf.argument("demo", 0).unwrap();
    assert_eq!(btf.member(root, "a", Expect::U32).unwrap().0, 0);
    assert_eq!(btf.member(root, "b", Expect::U64).unwrap().0, 8);
    let (offset, inner) = btf.member(root, "list[2]", Expect::Pointer).unwrap();
    assert_eq!(offset, 24 + 16);
    assert_eq!(btf.member(inner, "id", Expect::U32).unwrap().0, 0);
    assert_eq!(btf.enumerator("e_two"), Some(2));
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    let blob = blob();
    let btf = Btf::parse(&blob).unwrap();
    let root = btf.argument("demo", 0).unwrap();
    assert_eq!(btf.member(root, "c", Expect::U32).unwrap_err().to_string(), "c: no member `c`");
    assert!(matches!(btf.member(root, "a", Expect::Pointer), Err(BtfError::WrongType { .. })));
    assert!(matches!(btf.member(root, "bits", Expect::U32), Err(BtfError::WrongType { .. })));
    assert_eq!(btf.argument("none", 0), Err(BtfError::NoTracepoint("none".to_owned())));
    assert!(btf.argument("demo", 1).is_err());
}

#[test]
fn cut_off_or_foreign_bytes_are_refused() {
    let blob = blob();
    assert!(Btf::parse(b"\x7fELF").is_err());
    for length in 0..blob.len() {
        let _no_panic = Btf::parse(&blob[..length]).map(|btf| btf.argument("demo", 0));
    }
}
