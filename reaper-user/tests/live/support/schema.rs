//! The contract that every line of JSON is held against.

use std::{fs, sync::OnceLock};

use jsonschema::Validator;
use serde_json::Value;

fn validator() -> &'static Validator {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    VALIDATOR.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/event.schema.json");
        let schema: Value = serde_json::from_str(&fs::read_to_string(path).expect(path)).expect(path);
        jsonschema::validator_for(&schema).expect(path)
    })
}

/// The line as an event; panics where it is none, or holds bytes that could act on a terminal.
pub(crate) fn assert_valid(line: &[u8]) -> Value {
    let shown = String::from_utf8_lossy(line);
    assert!(!line.iter().any(|byte| byte.is_ascii_control()), "control bytes in {shown:?}");
    let event: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    let errors: Vec<_> = validator()
        .iter_errors(&event)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "not as schema/event.schema.json says: {errors:#?}\n{event:#}");
    event
}
