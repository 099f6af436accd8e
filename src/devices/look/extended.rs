//! What `v4l2r` does not give of a device's controls without unsafe code: values of 64 bits, by the crate `v4l` (0.14),
//! and the titles of menus, by `rscam` (0.5). `v4l` has those too, and panics at one that is no UTF-8.

use std::io;
use std::path::Path;

use peercam::capture::Choice;
use peercam::tasks;
use rscam::CtrlData;
use v4l::Device;
use v4l::control::{Control, Value};

use super::node::words;

/// The device at this path, which is opened for each question: so both crates have it.
pub struct Extended<'a>(pub &'a Path);

impl Extended<'_> {
    /// The values of a menu with the driver's names for them; none where it does not tell. Only for a menu whose
    /// first and last value are sound: all between them are asked for.
    pub fn menu(&self, id: u32) -> Vec<Choice> {
        let choice = |index: u32, title: String| Choice { value: i64::from(index), title: words(title.as_bytes()) };
        let path = self.0.to_str().ok_or(io::ErrorKind::InvalidFilename);
        let asked = path.map_err(io::Error::from).and_then(|path| rscam::Camera::new(path)?.get_control(id));
        match asked.map(|control| control.data) {
            Ok(CtrlData::Menu { items, .. }) => items.into_iter().map(|item| choice(item.index, item.name)).collect(),
            Ok(CtrlData::IntegerMenu { items, .. }) => {
                items.into_iter().map(|item| choice(item.index, item.value.to_string())).collect()
            }
            _ => vec![],
        }
    }

    /// The value of a control of 64 bits, where the driver tells.
    pub fn wide(&self, id: u32) -> Option<i64> {
        // `v4l` asks for the control's name too, and panics at one that is no UTF-8.
        let asked = tasks::caught(|| Device::with_path(self.0).and_then(|device| device.control(id)));
        match asked.ok()?.ok()?.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// Sets a control of 64 bits.
    pub fn set_wide(&self, id: u32, value: i64) -> io::Result<()> {
        Device::with_path(self.0)?.set_control(Control { id, value: Value::Integer(value) })
    }
}
