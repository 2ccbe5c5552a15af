//! A blocking netlink socket.

use crate::NetworkError;
use crate::wire::{self, Messages};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Which kernel family the socket talks to.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    Route,
    Netfilter,
}

/// One socket of the calling thread's network namespace. Requests are answered within milliseconds; a silent kernel
/// is reported after five seconds instead of hanging.
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub fn open(family: Family) -> Result<Self, NetworkError> {
        Self::bind(family, 0, SocketFlags::CLOEXEC)
    }

    /// Joins multicast groups, given as the bit mask of `nl_groups`; reads do not block.
    pub fn listen(family: Family, groups: u32) -> Result<Self, NetworkError> {
        Self::bind(family, groups, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn bind(family: Family, groups: u32, flags: SocketFlags) -> Result<Self, NetworkError> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let bound = || -> rustix::io::Result<OwnedFd> {
            let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
            net::bind(&fd, &netlink::SocketAddrNetlink::new(0, groups))?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
            Ok(fd)
        };
        bound()
            .map(|fd| Self { fd })
            .map_err(|e| NetworkError::os(format!("open a netlink socket ({family:?})"), e))
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// This socket's port id.
    pub fn port(&self) -> Result<u32, NetworkError> {
        let address =
            net::getsockname(&self.fd).map_err(|e| NetworkError::os("read a netlink address", e))?;
        let address = netlink::SocketAddrNetlink::try_from(address)
            .map_err(|e| NetworkError::os("read a netlink address", e))?;
        Ok(address.pid())
    }

    /// Sends the messages and reads until number `last`, which asked for it, is acknowledged. The first error of any
    /// message is returned; `doing` names what was attempted.
    pub fn transact(
        &self,
        messages: &Messages,
        last: u32,
        doing: impl Fn(u32) -> String,
    ) -> Result<(), NetworkError> {
        let bytes = messages.bytes();
        if bytes.len() > 100_000 {
            // nf_tables takes a transaction as one datagram, however long.
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() * 2);
        }
        net::send(&self.fd, bytes, SendFlags::empty()).map_err(|e| NetworkError::os(doing(0), e))?;
        let mut first: Option<(u32, i32)> = None;
        let mut buffer = vec![0u8; 65536];
        loop {
            let length = self.receive(&mut buffer).map_err(|e| match first {
                Some((sequence, code)) => {
                    NetworkError::os(doing(sequence), std::io::Error::from_raw_os_error(code))
                }
                None => NetworkError::os(doing(0), e),
            })?;
            for message in wire::messages(&buffer[..length]) {
                if message.kind != wire::NLMSG_ERROR {
                    continue;
                }
                let code = wire::error_code(message.payload);
                if code != 0 && first.is_none() {
                    first = Some((message.sequence, code));
                }
                // An error of the envelope itself (sequence 1) may be all that ever comes.
                if message.sequence == last || (code != 0 && message.sequence <= 1) {
                    return match first {
                        None => Ok(()),
                        Some((sequence, code)) => {
                            Err(NetworkError::os(doing(sequence), std::io::Error::from_raw_os_error(code)))
                        }
                    };
                }
            }
        }
    }

    /// Sends one dump request and hands each answer's (type, payload) to `each`.
    pub fn dump(
        &self,
        messages: &Messages,
        doing: &str,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetworkError> {
        net::send(&self.fd, messages.bytes(), SendFlags::empty()).map_err(|e| NetworkError::os(doing, e))?;
        let mut buffer = vec![0u8; 65536];
        loop {
            let length = self.receive(&mut buffer).map_err(|e| NetworkError::os(doing, e))?;
            for message in wire::messages(&buffer[..length]) {
                match message.kind {
                    wire::NLMSG_DONE => return Ok(()),
                    wire::NLMSG_ERROR => {
                        let code = wire::error_code(message.payload);
                        if code == 0 {
                            return Ok(());
                        }
                        return Err(NetworkError::os(doing, std::io::Error::from_raw_os_error(code)));
                    }
                    kind => each(kind, message.payload),
                }
            }
        }
    }

    /// One datagram; the caller's buffer is large enough for any answer this crate asks for.
    pub fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        rustix::io::retry_on_intr(|| net::recv(&self.fd, &mut *buffer, RecvFlags::empty()).map(|(n, _)| n))
    }
}
