use std::{os::unix::net::UnixListener, thread};

use tokio_stream::StreamExt as _;
use zbus::{Guid, MessageStream, ObjectPath, Variant, connection::Builder};

use super::*;

/// A bus on which systemd has one unit, for one client.
fn serve(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let server = Builder::unix_stream(stream).server(Guid::generate()).p2p();
            let bus = server.build().await.unwrap();
            let mut calls = MessageStream::from(&bus);
            while let Some(Ok(call)) = calls.next().await {
                let head = call.header();
                let member = head.member().map(|member| member.as_str().to_owned());
                match member.as_deref() {
                    Some("Hello") => bus.reply(&head, &":1.1").await.unwrap(),
                    Some("GetUnit") if call.body().deserialize::<&str>().unwrap() == "a.service" => {
                        let path = ObjectPath::try_from("/org/freedesktop/systemd1/unit/a").unwrap();
                        bus.reply(&head, &path).await.unwrap();
                    }
                    Some("GetUnit") => {
                        let error = "org.freedesktop.systemd1.NoSuchUnit";
                        bus.reply_error(&head, error, &"not loaded").await.unwrap();
                    }
                    Some("Get") => {
                        assert_eq!(head.path().unwrap().as_str(), "/org/freedesktop/systemd1/unit/a");
                        bus.reply(&head, &Variant::from("Fetches \u{1b}[2J")).await.unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    });
}

fn ask(unit: &str) -> Option<Names> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    serve(&socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(Systemd::at(socket).look_up(&Key::Unit(unit.to_owned())));
    answer.unwrap().map(|answer| answer.names)
}

#[test]
fn a_unit_is_described_and_one_that_is_not_loaded_is_not() {
    assert_eq!(ask("a.service").unwrap().description.unwrap().as_str(), r"Fetches \x1b[2J");
    assert_eq!(ask("b.service"), None);
}

mod damaged {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::super::bus::Message;

    proptest! {
        #[test]
        fn what_is_no_message_is_refused_and_nothing_worse(
            lengths in proptest::array::uniform2(0_u32..200),
            fields in proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(b's'), Just(b'g'), any::<u8>()], 0..400),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
                let mut message = vec![b'l', 2, 0, 1];
                for number in [lengths[0], 1, lengths[1]] {
                    message.extend(number.to_ne_bytes());
                }
                message.extend(&fields);
                theirs.write_all(&message).await.unwrap();
                drop(theirs);
                if let Ok(message) = Message::read(&mut ours).await {
                    drop(message.text());
                }
            });
        }
    }
}
