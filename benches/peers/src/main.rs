//! A page from the cache: what it costs, by this crate and by what else there is.
//!
//! All contenders serve in one process, in turns, over the same handler. Each round, each of them serves some
//! batches of requests, and what they took is divided by what the bare handler took in the same round; the
//! medians of all rounds are printed. Time is that of the processor, by thread.
//!
//! ```text
//! cargo run --release                     all tables
//! cargo run --release --no-default-features   without the rivals, which take minutes to compile
//! cargo run --release -- --rounds 1000    instead of 200
//! cargo run --release -- --only hit,304   these scenes
//! cargo run --release -- --who site,hand  those of these names, and the floor
//! cargo run --release -- --work site hit 100000   no clock: that many requests, for a profiler
//! ```

mod contenders;
mod cost;
mod scene;

use std::sync::{Arc, Barrier};

use contenders::{BATCH, Contender, Cost, Named, Role, all};
use cost::Counting;
use scene::{Requests, Scene, zipf};
use tokio::runtime::Runtime;
use tokio::task::unconstrained;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many batches a turn has.
const TURN: usize = 512 / BATCH;

struct Options {
    rounds: usize,
    only: Option<String>,
    who: Option<String>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options {
        rounds: 200,
        only: None,
        who: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value behind the option");
        match argument.as_str() {
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--only" => options.only = Some(value()),
            "--who" => options.who = Some(value()),
            "--work" => return work(&value(), &value(), value().parse().expect("a number")),
            _ => panic!("unknown option {argument}"),
        }
    }
    let order = zipf();
    for scene in Scene::ALL {
        let named = |only: &String| only.split(',').any(|name| name == scene.name());
        if !options.only.as_ref().is_none_or(named) {
            continue;
        }
        let bodies: &[usize] = match scene {
            Scene::Hit => &[1 << 10, 64 << 10],
            _ => &[1 << 10],
        };
        for body in bodies {
            for threads in [1, 2] {
                let rows = measure(&options, &order, (scene, *body), threads);
                print(scene, *body, threads, &rows);
            }
        }
    }
}

/// Serves so many requests for one page, and prints nothing: a profiler looks on.
fn work(name: &str, scene: &str, count: usize) {
    let named = all().find(|named| named.name.contains(name));
    let named = named.expect("a contender of this name");
    let scene = Scene::ALL.into_iter().find(|known| known.name() == scene);
    let scene = scene.expect("a scene of this name");
    let mut contender = (named.make)(scene, 1 << 10).expect("a contender for this scene");
    let order = if scene == Scene::Zipf {
        zipf()
    } else {
        Arc::default()
    };
    let mut requests = Requests::new(scene, order, 0);
    let runtime = runtime();
    runtime.block_on(contender.check(&mut requests, scene));
    let served = contender.serve(&mut requests, count.div_ceil(BATCH));
    runtime.block_on(unconstrained(served));
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

/// What one contender took, round by round; nothing if it does not do what the scene is about.
struct Row {
    named: &'static Named,
    costs: Option<Vec<Cost>>,
}

fn measure(
    options: &Options,
    order: &Arc<[u32]>,
    (scene, body): (Scene, usize),
    threads: usize,
) -> Vec<Row> {
    let is_asked = |named: &&Named| {
        let of = |who: &String| who.split(',').any(|part| named.name.contains(part));
        named.role == Role::Floor || options.who.as_ref().is_none_or(of)
    };
    let made = all().filter(is_asked).map(|named| {
        // A runtime for each, so that what one of them leaves behind is no load to the others.
        let checked = (named.make)(scene, body).filter(|contender| {
            let mut requests = Requests::new(scene, Arc::clone(order), 9);
            let is_floor = named.role == Role::Floor;
            is_floor || runtime().block_on(contender.share().check(&mut requests, scene))
        });
        (named, checked)
    });
    let made: Vec<_> = made.collect();
    let barrier = Barrier::new(threads);
    let lines: Vec<Vec<Vec<Cost>>> = std::thread::scope(|scope| {
        let run = |thread: usize| {
            let contenders = made
                .iter()
                .map(|(_, made)| made.as_ref().map(|made| made.share()));
            let mut contenders: Vec<Option<Box<dyn Contender>>> = contenders.collect();
            let mut requests: Vec<_> = contenders
                .iter()
                .map(|_| Requests::new(scene, Arc::clone(order), thread))
                .collect();
            let barrier = &barrier;
            scope.spawn(move || {
                let runtime = runtime();
                let mut costs = vec![Vec::new(); contenders.len()];
                for _ in 0..options.rounds {
                    for (index, contender) in contenders.iter_mut().enumerate() {
                        let Some(contender) = contender else { continue };
                        barrier.wait();
                        let served = contender.serve(&mut requests[index], TURN);
                        // Each request would be a task of its own, with a budget of its own.
                        costs[index].push(runtime.block_on(unconstrained(served)));
                    }
                }
                costs
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        let done = running
            .into_iter()
            .map(|thread| thread.join().expect("a thread"));
        done.collect()
    });
    let rows = made.iter().enumerate().map(|(index, (named, made))| Row {
        named,
        costs: made
            .is_some()
            .then(|| lines.iter().flat_map(|line| line[index].clone()).collect()),
    });
    rows.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(scene: Scene, body: usize, threads: usize, rows: &[Row]) {
    println!(
        "\n{}, {} KiB, {} thread{}",
        scene.name(),
        body >> 10,
        threads,
        if threads == 1 { "" } else { "s" }
    );
    println!(
        "{:30}{:>10}{:>14}{:>10}",
        "", "CPU ns", "allocations", "ratio"
    );
    let floor = rows[0].costs.as_deref();
    for row in rows {
        let Some(costs) = &row.costs else {
            println!("{:30}{:>10}", row.named.name, "no");
            continue;
        };
        let ratios = floor.into_iter().flatten().zip(costs);
        let ratio = median(ratios.map(|(floor, own)| own.nanos / floor.nanos).collect());
        println!(
            "{:30}{:>10.0}{:>14.1}{:>10.2}",
            row.named.name,
            median(costs.iter().map(|cost| cost.nanos).collect()),
            median(costs.iter().map(|cost| cost.allocations).collect()),
            ratio
        );
    }
}
