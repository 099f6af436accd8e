//! Access to controls that `v4l2r` does not offer without unsafe code: 64-bit values, with the crate `v4l` (0.14),
//! and menu titles, with `rscam` (0.5). `v4l` has those too, but panics at one that is not UTF-8.

use std::io;
use std::path::Path;

use peercam::capture::MenuItem;
use peercam::tasks;
use rscam::CtrlData;
use v4l::Device;
use v4l::control::{Control, Value};

use super::node::words;

/// The device at this path, which is opened for each call, as both crates need.
pub struct ExtendedControls<'a>(pub &'a Path);

impl ExtendedControls<'_> {
    /// The values of a menu with the driver's names for them; empty if the driver does not list them. Only for a
    /// menu with plausible first and last values: all between them are queried.
    pub fn menu(&self, id: u32) -> Vec<MenuItem> {
        let choice = |index: u32, title: String| MenuItem { value: i64::from(index), title: words(title.as_bytes()) };
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

    /// The value of a 64-bit control, if the driver reports it.
    pub fn wide(&self, id: u32) -> Option<i64> {
        // `v4l` also reads the control's name, and panics at one that is not UTF-8.
        let asked = tasks::catch_panic(|| Device::with_path(self.0).and_then(|device| device.control(id)));
        match asked.ok()?.ok()?.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// Sets a 64-bit control.
    pub fn set_wide(&self, id: u32, value: i64) -> io::Result<()> {
        Device::with_path(self.0)?.set_control(Control { id, value: Value::Integer(value) })
    }
}
