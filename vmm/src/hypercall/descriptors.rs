//! Calls on descriptors, whatever they stand for.

use std::sync::Arc;

use mm::backing::FileMode;
use mm::error::Errno;
use nix::libc;

use super::{Context, Served, Stop, userfault};
use crate::files::tree::Device;
use crate::files::{Object, Open};

/// The largest pipe that a program may ask for without `CAP_SYS_RESOURCE`, in bytes (`fs.pipe-max-size`).
const LARGEST_PIPE: usize = 1 << 20;
/// What is no size of a pipe any more.
const MOST_OF_PIPE: usize = 1 << 31;

/// A descriptor as a result.
pub(super) fn descriptor(fd: i32) -> u64 {
    u64::from(fd.unsigned_abs())
}

/// close(2).
pub(super) fn close(c: &mut Context<'_>) -> Served {
    c.process.files.close(c.int(0))?;
    Ok(0)
}

/// ioctl(2): what a program asks to find out whether a stream is a terminal, what it tells a userfaultfd, and what it asks
/// files of `/proc`.
pub(super) fn ioctl(c: &mut Context<'_>) -> Served {
    let request = u64::from(c.int(1).cast_unsigned());
    let open = c.process.files.get(c.int(0))?;
    let stream = match open.object() {
        Object::Stream(stream) => stream,
        Object::Userfault(_) if request == libc::FIONBIO => {
            return set_nonblocking(c, &open);
        }
        Object::Userfault(file) => return userfault::ioctl(c, file, request),
        Object::Device(Device::Userfaultfd) => return userfault::make(c, request),
        Object::Made(made) => return Ok(made.ioctl(c.process, request, c.address(2))?),
        Object::Place => return Err(Errno::EBADF.into()),
        _ => return Err(Errno::ENOTTY.into()),
    };
    match request {
        libc::TCGETS => {
            let termios = rustix::termios::tcgetattr(stream.host())?;
            let modes = [
                termios.input_modes.bits(),
                termios.output_modes.bits(),
                termios.control_modes.bits(),
                termios.local_modes.bits(),
            ];
            let mut bytes: Vec<u8> = modes.iter().flat_map(|mode| mode.to_le_bytes()).collect();
            // c_line, then 19 control characters: zeros, which mean "none".
            bytes.resize(36, 0);
            c.write_bytes(c.address(2), &bytes)?;
            Ok(0)
        }
        libc::TIOCGWINSZ => {
            let size = rustix::termios::tcgetwinsize(stream.host())?;
            let fields = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
            let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            c.write_bytes(c.address(2), &bytes)?;
            Ok(0)
        }
        libc::FIONREAD => {
            let count = rustix::io::ioctl_fionread(stream.host())?;
            c.write_bytes(c.address(2), &u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes())?;
            Ok(0)
        }
        libc::FIONBIO => set_nonblocking(c, &open),
        _ => Err(Errno::ENOTTY.into()),
    }
}

/// `FIONBIO`.
fn set_nonblocking(c: &Context<'_>, open: &Open) -> Served {
    let nonblocking = c.read_bytes(c.address(2), 4)? != [0; 4];
    let other = open.status() & !libc::O_NONBLOCK;
    open.set_status(if nonblocking { other | libc::O_NONBLOCK } else { other })?;
    Ok(0)
}

/// fcntl(2).
pub(super) fn fcntl(c: &mut Context<'_>) -> Served {
    let (fd, value) = (c.int(0), c.int(2));
    let files = &c.process.files;
    let open = files.get(fd)?;
    match c.int(1) {
        libc::F_DUPFD => Ok(descriptor(c.process.open_as(open, value, 0)?)),
        libc::F_DUPFD_CLOEXEC => {
            Ok(descriptor(c.process.open_as(open, value, libc::FD_CLOEXEC)?))
        }
        libc::F_GETFD => Ok(descriptor(files.flags(fd)?)),
        libc::F_SETFD => {
            files.set_flags(fd, value)?;
            Ok(0)
        }
        libc::F_GETFL => Ok(u64::from(status(&open)?)),
        libc::F_SETFL => {
            open.set_status(value)?;
            Ok(0)
        }
        libc::F_GET_SEALS => match open.object() {
            Object::Memory(memfd) => Ok(u64::from(memfd.seals().bits())),
            _ => Err(Errno::EINVAL.into()),
        },
        libc::F_ADD_SEALS => match open.object() {
            Object::Memory(_) if !open.mode().contains(FileMode::WRITE) => Err(Errno::EPERM.into()),
            Object::Memory(memfd) => {
                memfd.add_seals(value.cast_unsigned())?;
                Ok(0)
            }
            _ => Err(Errno::EINVAL.into()),
        },
        libc::F_GETPIPE_SZ => match open.object() {
            Object::Stream(stream) => Ok(rustix::pipe::fcntl_getpipe_size(stream.host())? as u64),
            _ => Err(Errno::EBADF.into()),
        },
        libc::F_SETPIPE_SZ => match open.object() {
            Object::Stream(stream) => {
                let size = usize::try_from(value.cast_unsigned()).map_err(|_| Errno::EINVAL)?;
                // The host might allow mmvisor more.
                if size > LARGEST_PIPE {
                    let refused = if size > MOST_OF_PIPE { Errno::EINVAL } else { Errno::EPERM };
                    return Err(refused.into());
                }
                Ok(rustix::pipe::fcntl_setpipe_size(stream.host(), size)? as u64)
            }
            _ => Err(Errno::EBADF.into()),
        },
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The bits of `F_GETFL`.
fn status(open: &Open) -> Result<u32, Stop> {
    /// `O_LARGEFILE` as the kernel has it; the C library's is 0.
    const LARGE_FILE: i32 = 0o100_000;
    let mode = match (open.mode().contains(FileMode::READ), open.mode().contains(FileMode::WRITE)) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    let bits = match open.object() {
        Object::Stream(stream) if !stream.has_bytes() => mode | open.status(),
        Object::Stream(stream) => return Ok(rustix::fs::fcntl_getfl(stream.host())?.bits()),
        Object::Place => libc::O_PATH,
        Object::Userfault(_) => mode | open.status(),
        Object::Directory => mode | LARGE_FILE | libc::O_DIRECTORY | open.status(),
        Object::Memory(_) | Object::File(_) | Object::Device(_) | Object::Made(_) => {
            mode | LARGE_FILE | open.status()
        }
    };
    Ok(bits.cast_unsigned())
}

/// dup(2).
pub(super) fn dup(c: &mut Context<'_>) -> Served {
    let open = c.process.files.get(c.int(0))?;
    Ok(descriptor(c.process.open_as(open, 0, 0)?))
}

/// dup2(2).
pub(super) fn dup2(c: &mut Context<'_>) -> Served {
    if c.int(0) == c.int(1) {
        c.process.files.get(c.int(0))?;
        return Ok(descriptor(c.int(0)));
    }
    c.args[2] = 0;
    dup3(c)
}

/// dup3(2).
pub(super) fn dup3(c: &mut Context<'_>) -> Served {
    let (from, to, flags) = (c.int(0), c.int(1), c.int(2));
    if flags & !libc::O_CLOEXEC != 0 || from == to {
        return Err(Errno::EINVAL.into());
    }
    if !(0..c.process.most_files()).contains(&to) {
        return Err(Errno::EBADF.into());
    }
    let open: Arc<Open> = c.process.files.get(from)?;
    c.process.files.replace(to, open, close_on_exec(flags))?;
    Ok(descriptor(to))
}

/// close_range(2). `EINVAL` unknown flags, or the first above the last.
pub(super) fn close_range(c: &mut Context<'_>) -> Served {
    const CLOSE_ON_EXEC: u32 = libc::CLOSE_RANGE_CLOEXEC;
    const UNSHARE: u32 = libc::CLOSE_RANGE_UNSHARE;
    let [first, last, flags] = [0, 1, 2].map(|index| c.int(index).cast_unsigned());
    if flags & !(CLOSE_ON_EXEC | UNSHARE) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    let files = &c.process.files;
    if flags & UNSHARE != 0 && Arc::strong_count(files) > 1 {
        log::debug!("descriptors that are another's, too, cannot be parted from that");
        return Err(Errno::ENOSYS.into());
    }
    let range = first..=last;
    let meant = |fd: &i32| range.contains(&fd.cast_unsigned());
    for fd in files.all().into_iter().filter(meant) {
        // Another process may have been faster.
        let _ = if flags & CLOSE_ON_EXEC == 0 {
            files.close(fd)
        } else {
            files.set_flags(fd, libc::FD_CLOEXEC)
        };
    }
    Ok(0)
}

/// A new descriptor's own flags, of `O_CLOEXEC`.
pub(super) fn close_on_exec(flags: i32) -> i32 {
    if flags & libc::O_CLOEXEC == 0 { 0 } else { libc::FD_CLOEXEC }
}
