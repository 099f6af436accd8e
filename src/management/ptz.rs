//! Translates `ptz` commands into camera movements.

use crate::camera::AxisMotion;
use crate::camera::Camera;
use crate::camera::Error;
use crate::camera::PtzMovement;
use crate::command::Direction;
use crate::command::Steps;

/// The distance of a move that states none: about a picture's width at the far end of the zoom.
const DEFAULT_STEP: f64 = 0.05;

/// Speed of a continuous move: slow enough that a person can stop it where it should look.
const SPEED: f64 = 0.5;

/// Moves `camera`.
///
/// # Errors
///
/// When it cannot make this move.
pub async fn execute(camera: &Camera, direction: Direction, steps: Option<Steps>) -> Result<(), Error> {
    match direction {
        Direction::Stop => stop(camera).await,
        Direction::Home => go_home(camera).await,
        _ => {
            let share = steps.map_or(DEFAULT_STEP, |steps| f64::from(steps.get()) / 100.0);
            match camera.move_ptz(movement(direction, AxisMotion::By, share)).await {
                // A camera that only supports speeds moves until it is stopped, unless a distance was given.
                Err(Error::Immovable { .. }) if steps.is_none() => {
                    camera.move_ptz(movement(direction, AxisMotion::At, SPEED)).await
                }
                ended => ended,
            }
        }
    }
}

fn movement(direction: Direction, motion: fn(f64) -> AxisMotion, share: f64) -> PtzMovement {
    let (on, back) = (Some(motion(share)), Some(motion(-share)));
    match direction {
        Direction::Left => PtzMovement { pan: back, ..PtzMovement::default() },
        Direction::Right => PtzMovement { pan: on, ..PtzMovement::default() },
        Direction::Up => PtzMovement { tilt: on, ..PtzMovement::default() },
        Direction::Down => PtzMovement { tilt: back, ..PtzMovement::default() },
        Direction::In => PtzMovement { zoom: on, ..PtzMovement::default() },
        Direction::Out => PtzMovement { zoom: back, ..PtzMovement::default() },
        Direction::Stop | Direction::Home => PtzMovement::default(),
    }
}

/// Moves each axis separately, as a camera need not have all.
async fn stop(camera: &Camera) -> Result<(), Error> {
    let still = Some(AxisMotion::At(0.0));
    let axes = [
        PtzMovement { pan: still, ..PtzMovement::default() },
        PtzMovement { tilt: still, ..PtzMovement::default() },
        PtzMovement { zoom: still, ..PtzMovement::default() },
    ];
    let mut ended = camera.move_ptz(axes[0]).await;
    for axis in &axes[1..] {
        ended = camera.move_ptz(*axis).await.or(ended);
    }
    ended
}

/// Moves to the position where its controls have no adjustment.
async fn go_home(camera: &Camera) -> Result<(), Error> {
    let controls = camera.controls().await?;
    let place = |name: &str| {
        let control = controls.iter().find(|control| control.name == name)?;
        let span = control.maximum.saturating_sub(control.minimum).max(1) as f64;
        Some(AxisMotion::To(control.default.saturating_sub(control.minimum) as f64 / span))
    };
    let home = PtzMovement { pan: place("pan_absolute"), tilt: place("tilt_absolute"), zoom: place("zoom_absolute") };
    if home.is_empty() {
        return Err(Error::Immovable { verb: "go home".into(), hint: ": it knows no places".into() });
    }
    camera.move_ptz(home).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_moves_one_axis() {
        let moved = |direction| movement(direction, AxisMotion::By, 0.1);
        assert_eq!(moved(Direction::Left).pan, Some(AxisMotion::By(-0.1)));
        assert_eq!(moved(Direction::Right).pan, Some(AxisMotion::By(0.1)));
        assert_eq!(moved(Direction::Up).tilt, Some(AxisMotion::By(0.1)));
        assert_eq!(moved(Direction::Down).tilt, Some(AxisMotion::By(-0.1)));
        assert_eq!(moved(Direction::In).zoom, Some(AxisMotion::By(0.1)));
        assert_eq!(moved(Direction::Out).zoom, Some(AxisMotion::By(-0.1)));
    }
}
