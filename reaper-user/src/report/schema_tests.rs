//! Real output against `schema/event.schema.json`.

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{Event, Loss, Source, fixture, headroom, json::to_line, parse};
use crate::{
    origin,
    workload::{Kind, Runtime},
    zombie::{Cause, Relation, Sigchld, Zombie},
};

fn schema() -> Value {
    serde_json::from_str(include_str!("../../schema/event.schema.json")).unwrap()
}

fn validator() -> Validator {
    jsonschema::options().should_validate_formats(true).build(&schema()).unwrap()
}

fn value(event: &Event) -> Value {
    serde_json::from_str(&to_line(event).unwrap()).unwrap()
}

fn check(validator: &Validator, value: &Value) {
    let errors: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

/// One event of each kind, and all causes, runtimes and losses; what is optional is there, and is not.
fn events() -> Vec<Event> {
    let mut zombies = fixture::all();
    let vary = |change: &dyn Fn(&mut Zombie)| {
        let mut zombie = fixture::coalesced();
        change(&mut zombie);
        zombie
    };
    for cause in [
        Cause::HeldByTracer,
        Cause::NamespaceDying,
        Cause::HolderStopped,
        Cause::Adopted,
        Cause::Inherited,
        Cause::NotificationCoalesced,
        Cause::NeverWaited,
        Cause::Unknown,
    ] {
        zombies.push(vary(&|zombie| zombie.cause = cause));
    }
    for kind in [Kind::Pod, Kind::Container, Kind::Machine, Kind::Unit, Kind::Session, Kind::Host] {
        zombies.push(vary(&|zombie| zombie.workload.kind = kind));
    }
    for runtime in [
        Runtime::Containerd,
        Runtime::CriO,
        Runtime::Docker,
        Runtime::Podman,
        Runtime::Lxc,
        Runtime::Incus,
        Runtime::Nspawn,
        Runtime::Oci,
    ] {
        zombies.push(vary(&|zombie| zombie.workload.runtime = Some(runtime)));
    }
    for sigchld in [Sigchld::Delivered, Sigchld::Ignored, Sigchld::Coalesced] {
        zombies.push(vary(&|zombie| zombie.evidence.sigchld = Some(sigchld)));
    }
    for relation in [Relation::Holder, Relation::Other, Relation::Gone] {
        zombies.push(vary(&|zombie| {
            if let Some(forker) = &mut zombie.forker {
                forker.relation = relation;
            }
        }));
    }
    let mut events: Vec<Event> =
        zombies.iter().flat_map(|zombie| [fixture::event(zombie), fixture::released(zombie)]).collect();
    events.push(fixture::reaped(&fixture::traced(), 1));
    events.extend(Loss::ALL.map(|loss| Event::lost(loss, 1, u64::MAX, fixture::time())));
    events.extend(fixture::remedies());
    events.extend(fixture::breakers());
    events.extend(fixture::leaks());
    events.extend(headroom::fixture::all());
    events.extend(fixture::explanations());
    events.extend([Source::Daemon, Source::Census].map(|source| Event::listing(source, 0, fixture::time())));
    events
}

#[test]
fn every_event_is_as_the_schema_says() {
    let validator = validator();
    for event in events() {
        check(&validator, &value(&event));
    }
}

#[test]
fn an_event_without_one_of_its_fields_or_with_one_more_is_not() {
    let validator = validator();
    for event in [
        fixture::event(&fixture::traced()),
        fixture::event(&fixture::forked_at(origin::fixture::exact(42))),
        fixture::event(&fixture::forked_at(origin::fixture::lineage_only())),
        fixture::released(&fixture::traced()),
        fixture::reaped(&fixture::traced(), 1),
        Event::lost(Loss::DeathLost, 1, 1, fixture::time()),
        Event::listing(Source::Daemon, 1, fixture::time()),
        fixture::remedies().remove(0),
        fixture::remedies().remove(1),
        fixture::breakers().remove(0),
        fixture::leaks().remove(0),
        fixture::leaks().remove(1),
        fixture::leaks().remove(7),
        fixture::explanations().remove(0),
        fixture::explanations().remove(4),
        headroom::fixture::all().remove(0),
        headroom::fixture::all().remove(3),
    ] {
        let whole = value(&event);
        mutilate(&whole, &mut |mutilated| {
            assert!(!validator.is_valid(&mutilated), "{mutilated:#}");
        });
    }
}

/// Calls `each` with the value less one field, plus one field, and with one field of another type, at every depth.
fn mutilate(whole: &Value, each: &mut dyn FnMut(Value)) {
    let Some(fields) = whole.as_object() else { return };
    let mut with_more = fields.clone();
    with_more.insert("surprise".to_owned(), Value::Null);
    each(Value::Object(with_more));
    for (name, inner) in fields {
        let with = |other: Value| -> Value {
            let mut fields: Map<String, Value> = fields.clone();
            fields.insert(name.clone(), other);
            Value::Object(fields)
        };
        let mut without = fields.clone();
        without.remove(name);
        each(Value::Object(without));
        each(with(json!([1])));
        if name != "event" && name != "what" && !inner.is_object() {
            each(with(json!("\u{1b}[2J")));
        }
        mutilate(inner, &mut |mutilated| each(with(mutilated)));
    }
}

#[test]
fn an_age_is_either_exact_or_a_least() {
    let validator = validator();
    for (zombie, wrong) in [
        (fixture::predating(), json!({"age_seconds": 1.0})),
        (fixture::traced(), json!({"age_at_least": 1.0})),
    ] {
        let mut event = value(&fixture::event(&zombie));
        check(&validator, &event);
        event.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(!validator.is_valid(&event));
    }
}

#[test]
fn an_event_of_the_future_is_valid_and_one_of_another_schema_is_not() {
    let validator = validator();
    assert!(validator.is_valid(&json!({"schema": 1, "event": "forecast", "anything": {}})));
    assert!(!validator.is_valid(&json!({"schema": 2, "event": "remedy"})));
    assert!(!validator.is_valid(&json!({"schema": 1})));
}

#[test]
fn every_property_is_described() {
    fn walk(place: &str, value: &Value) {
        let Some(object) = value.as_object() else { return };
        if let Some(properties) = object.get("properties").and_then(Value::as_object)
            && !place.ends_with("/if")
            && !place.ends_with("/then")
            && !place.ends_with("/else")
            && !place.contains("/oneOf")
        {
            for (name, property) in properties {
                assert!(property["description"].is_string(), "{place}/{name}");
            }
        }
        for (name, inner) in object {
            walk(&format!("{place}/{name}"), inner);
        }
    }
    walk("", &schema());
}

#[test]
fn the_known_losses_are_named() {
    let schema = schema();
    let described = schema["$defs"]["lost"]["properties"]["what"]["description"].as_str().unwrap();
    for loss in Loss::ALL {
        assert!(described.contains(loss.as_str()), "{}", loss.as_str());
    }
}

#[test]
fn a_zombie_as_json() {
    let line = to_line(&fixture::event(&fixture::never_waited())).unwrap();
    assert!(
        line.starts_with(concat!(
            r#"{"schema":1,"event":"zombie","time":"2026-02-03T14:03:07.250000Z","pid":4712,"ns_pid":7,"#,
            r#""start_time":999000000123,"comm":"sh","cmdline":"sh -c exit","age_seconds":5.042,"#,
            r#""age_at_least":null,"age_approximate":false,"exit":{"code":0,"core":false},"#,
            r#""holder":{"pid":4700,"start_time":4700000,"comm":"app","cmdline":"/usr/bin/app --flag","state":"S"},"#,
            r#""forker":{"pid":4700,"start_time":4700000,"comm":"app","cmdline":"/usr/bin/app --flag","state":"S","#,
            r#""relation":"holder"},"cause":"never-waited","evidence":{"#,
        )),
        "{line}"
    );
}

#[test]
fn an_origin_as_json() {
    let origin = &value(&fixture::event(&fixture::forked_at(origin::fixture::exact(42))))["origin"];
    assert_eq!((&origin["quality"], &origin["stack_of"]), (&"exact".into(), &1.into()));
    let stack = &origin["stack"];
    let place = usize::try_from(stack["place"].as_u64().unwrap()).unwrap();
    assert_eq!(
        stack["frames"][place],
        json!({
            "function": "open_browser", "file": "/srv/crawl.py", "line": 42, "module": null, "offset": null,
            "build_id": null, "kind": "python",
        })
    );
}

#[test]
fn hostile_text_is_escaped_in_json() {
    for event in [fixture::event(&fixture::hostile()), fixture::released(&fixture::hostile())] {
        let line = to_line(&event).unwrap();
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert_eq!(value(&event)["comm"], r"\x1b[2J\u{202e}\n");
    }
}

#[test]
fn what_is_written_is_read_back() {
    for event in events() {
        let line = to_line(&event).unwrap();
        assert_eq!(to_line(&parse(&line).unwrap()).unwrap(), line);
    }
    assert!(parse("{}").is_err());
    assert!(parse(r#"{"schema":2,"event":"zombie"}"#).unwrap_err().to_string().contains("schema 2"));
}
