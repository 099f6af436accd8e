//! The few words by which an operator moves a camera, in the terms of cameras.

use crate::camera::Camera;
use crate::camera::Error;
use crate::camera::Motion;
use crate::camera::Movement;
use crate::command::Direction;
use crate::command::Steps;

/// How far one goes whose distance was not said: a picture's width at the far end of a camera's zoom is about that.
const USUAL: f64 = 0.05;

/// How fast one goes that moves on and on, so that a person can stop it where it should look.
const SPEED: f64 = 0.5;

/// Moves `camera`.
///
/// # Errors
///
/// When it cannot move so.
pub async fn carry_out(camera: &Camera, direction: Direction, steps: Option<Steps>) -> Result<(), Error> {
    match direction {
        Direction::Stop => stop(camera).await,
        Direction::Home => go_home(camera).await,
        _ => {
            let share = steps.map_or(USUAL, |steps| f64::from(steps.get()) / 100.0);
            match camera.move_by(movement(direction, Motion::By, share)).await {
                // A camera that knows speeds only goes on until it is stopped, unless a distance was wanted.
                Err(Error::Immovable { .. }) if steps.is_none() => {
                    camera.move_by(movement(direction, Motion::At, SPEED)).await
                }
                ended => ended,
            }
        }
    }
}

fn movement(direction: Direction, motion: fn(f64) -> Motion, share: f64) -> Movement {
    let (on, back) = (Some(motion(share)), Some(motion(-share)));
    match direction {
        Direction::Left => Movement { pan: back, ..Movement::default() },
        Direction::Right => Movement { pan: on, ..Movement::default() },
        Direction::Up => Movement { tilt: on, ..Movement::default() },
        Direction::Down => Movement { tilt: back, ..Movement::default() },
        Direction::In => Movement { zoom: on, ..Movement::default() },
        Direction::Out => Movement { zoom: back, ..Movement::default() },
        Direction::Stop | Direction::Home => Movement::default(),
    }
}

/// Each axis for itself, as a camera need not have all.
async fn stop(camera: &Camera) -> Result<(), Error> {
    let still = Some(Motion::At(0.0));
    let axes = [
        Movement { pan: still, ..Movement::default() },
        Movement { tilt: still, ..Movement::default() },
        Movement { zoom: still, ..Movement::default() },
    ];
    let mut ended = camera.move_by(axes[0]).await;
    for axis in &axes[1..] {
        ended = camera.move_by(*axis).await.or(ended);
    }
    ended
}

/// To where its controls are without adjustment.
async fn go_home(camera: &Camera) -> Result<(), Error> {
    let controls = camera.controls().await?;
    let place = |name: &str| {
        let control = controls.iter().find(|control| control.name == name)?;
        let span = control.maximum.saturating_sub(control.minimum).max(1) as f64;
        Some(Motion::To(control.default.saturating_sub(control.minimum) as f64 / span))
    };
    let home = Movement { pan: place("pan_absolute"), tilt: place("tilt_absolute"), zoom: place("zoom_absolute") };
    if home.is_empty() {
        return Err(Error::Immovable { verb: "go home".into(), hint: ": it knows no places".into() });
    }
    camera.move_by(home).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_moves_one_axis_one_way() {
        let moved = |direction| movement(direction, Motion::By, 0.1);
        assert_eq!(moved(Direction::Left).pan, Some(Motion::By(-0.1)));
        assert_eq!(moved(Direction::Right).pan, Some(Motion::By(0.1)));
        assert_eq!(moved(Direction::Up).tilt, Some(Motion::By(0.1)));
        assert_eq!(moved(Direction::Down).tilt, Some(Motion::By(-0.1)));
        assert_eq!(moved(Direction::In).zoom, Some(Motion::By(0.1)));
        assert_eq!(moved(Direction::Out).zoom, Some(Motion::By(-0.1)));
    }
}
