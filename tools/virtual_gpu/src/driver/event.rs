//! Events: places in streams, or in captures, that others wait for.

use super::error::{Code, Done, give};
use super::handles::Handles;
use super::stream::{self, Place, Work};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Where an event was recorded last.
#[derive(Clone, Default)]
enum Recorded {
    #[default]
    Never,
    At(Place),
    /// In a capture, after these nodes.
    Captured(u64, Vec<usize>),
}

/// An event.
#[derive(Default)]
pub struct Event {
    untimed: bool,
    recorded: Mutex<Recorded>,
    /// When it was reached last.
    time: Mutex<Option<Instant>>,
}

static EVENTS: Handles<Event> = Handles::new();

/// Flags of `cuEventCreate`: blocking, without time, between processes.
const UNTIMED: u32 = 2;

impl Event {
    /// Notes that the device has come to it.
    pub fn reached(&self) {
        *self.time.lock().unwrap() = Some(Instant::now());
    }

    /// The place to wait for, outside of a capture.
    fn place(&self) -> Result<Option<Place>, Code> {
        match &*self.recorded.lock().unwrap() {
            Recorded::Never => Ok(None),
            Recorded::At(place) => Ok(Some(*place)),
            Recorded::Captured(..) => Err(Code::CAPTURED_EVENT),
        }
    }
}

/// `cuEventCreate`.
pub fn create(flags: u32) -> Result<*mut c_void, Code> {
    if flags > 7 {
        return Err(Code::INVALID_VALUE);
    }
    Ok(EVENTS.add(Arc::new(Event { untimed: flags & UNTIMED != 0, ..Event::default() })))
}

/// `cuEventDestroy`.
pub fn destroy(handle: *mut c_void) -> Done {
    EVENTS.remove(handle).map(|_| ())
}

/// `cuEventRecord`: in a stream that captures, what the next node would follow.
pub fn record(handle: *mut c_void, stream: *mut c_void) -> Done {
    let event = EVENTS.get(handle)?;
    let mut scheduler = stream::lock();
    let id = scheduler.find(stream)?;
    let captured = scheduler.capture_of(id).clone();
    drop(scheduler);
    let recorded = match captured {
        Some((capture, nodes)) => Recorded::Captured(capture, nodes),
        None => match stream::queue_after(stream, Work::Record(event.clone()), Vec::new())? {
            Some(place) => Recorded::At(place),
            None => return Err(Code::STREAM_CAPTURE_INVALIDATED),
        },
    };
    *event.recorded.lock().unwrap() = recorded;
    Ok(())
}

/// `cuStreamWaitEvent`: later work of the stream comes after the event. An event of a capture takes the stream into it.
pub fn wait(stream: *mut c_void, handle: *mut c_void) -> Done {
    let event = EVENTS.get(handle)?;
    let recorded = event.recorded.lock().unwrap().clone();
    let mut scheduler = stream::lock();
    let id = scheduler.find(stream)?;
    let joined = scheduler.capture_of(id).as_ref().map(|(capture, _)| *capture);
    match (joined, recorded) {
        (_, Recorded::Never) => Ok(()),
        (None, Recorded::At(place)) => {
            drop(scheduler);
            stream::wait_on(stream, Some(place))
        }
        (Some(capture), Recorded::At(_)) => {
            scheduler.invalidate(capture);
            Err(Code::STREAM_CAPTURE_ISOLATION)
        }
        (joined, Recorded::Captured(capture, nodes)) => scheduler.join_capture(id, joined, capture, &nodes),
    }
}

/// `cuEventQuery`, which lets the device go on a little.
pub fn query(handle: *mut c_void) -> Done {
    EVENTS.get(handle)?.place()?.map_or(Ok(()), stream::poll)
}

/// `cuEventSynchronize`.
pub fn synchronize(handle: *mut c_void) -> Done {
    EVENTS.get(handle)?.place()?.map_or(Ok(()), |place| stream::wait_for(&[place]))
}

/// `cuEventElapsedTime`, in the processor's time.
///
/// # Safety
/// `milliseconds` is null or may be written.
pub unsafe fn elapsed(milliseconds: *mut f32, from: *mut c_void, to: *mut c_void) -> Done {
    // Safety: the caller's.
    unsafe {
        let times = [EVENTS.get(from)?, EVENTS.get(to)?].map(|event| {
            if event.untimed {
                return Err(Code::INVALID_HANDLE);
            }
            let place = event.place()?.ok_or(Code::INVALID_HANDLE)?;
            if !stream::lock().is_done(place) {
                return Err(Code::NOT_READY);
            }
            event.time.lock().unwrap().ok_or(Code::NOT_READY)
        });
        let [from, to] = [times[0]?, times[1]?];
        let seconds = match to.checked_duration_since(from) {
            Some(after) => after.as_secs_f64(),
            None => -from.duration_since(to).as_secs_f64(),
        };
        give(milliseconds, (seconds * 1e3) as f32)
    }
}

/// A line that names the events that were not destroyed.
pub fn left() -> Option<String> {
    EVENTS.left("event")
}

/// Forgets every event.
pub fn forget_all() {
    EVENTS.clear();
}
