//! Runs children and checks their statuses, beside a thread; each child leaves an orphan behind.
use std::{process::Command, thread, time::Duration};

fn main() {
    thread::spawn(|| loop {
        if (1..=1000_u64).sum::<u64>() != 500_500 {
            println!("fault sum");
        }
        thread::sleep(Duration::from_millis(1));
    });
    for number in 1.. {
        let wanted = number % 100;
        let status = Command::new("sh").arg("-c").arg(format!("sleep 0 & exit {wanted}")).status();
        if !status.as_ref().is_ok_and(|status| status.code() == Some(wanted)) {
            println!("fault {number} {status:?}");
        }
        println!("tick {number}");
        thread::sleep(Duration::from_millis(20));
    }
}
