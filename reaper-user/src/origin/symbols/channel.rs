//! The socket between the daemon and the symbolizing process: whole packets, with descriptors.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
        socketpair, sockopt,
    },
};

use super::message::{FILES, PACKET};

/// A packet and what came with it.
pub type Received<'a> = (&'a [u8], Vec<OwnedFd>);

/// Its two ends.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&pair.0, &pair.1] {
        // Where the system allows less, a packet that is too large is refused when it is sent.
        let _less = sockopt::set_socket_send_buffer_size(end, 2 * PACKET);
    }
    Ok(pair)
}

/// Sends one packet.
pub fn send(socket: impl AsFd, packet: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOBIG);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == packet.len() => return Ok(()),
            Ok(_) => return Err(Errno::MSGSIZE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives one packet into `room`, and the descriptors that came with it. `None` where the other end is gone.
pub fn receive(socket: impl AsFd, room: &mut [u8]) -> Result<Option<Received<'_>>, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(room)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok(room.get(..received.bytes).filter(|packet| !packet.is_empty()).map(|packet| (packet, files)))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use super::*;

    #[test]
    fn packets_arrive_whole_with_their_files() {
        let (one, other) = pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "text").unwrap();
        let file = File::open(directory.path().join("file")).unwrap();
        send(&one, &[7; PACKET], &[file.as_fd(), file.as_fd()]).unwrap();
        send(&one, b"second", &[]).unwrap();
        let mut room = vec![0; PACKET];
        let (packet, files) = receive(&other, &mut room).unwrap().unwrap();
        assert_eq!((packet.len(), files.len()), (PACKET, 2));
        let mut text = String::new();
        File::from(files.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        let (packet, files) = receive(&other, &mut room).unwrap().unwrap();
        assert_eq!((packet, files.len()), (&b"second"[..], 0));
        drop(one);
        assert!(receive(&other, &mut room).unwrap().is_none());
    }
}
