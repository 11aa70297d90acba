//! A shard that runs what it is told, for benches of what needs a runtime.

use std::{future::Future, pin::Pin};

use runtime_glommio::{GlommioRuntime, Options, Placement, run_shards};

type Job = Box<dyn FnOnce(GlommioRuntime) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// One executor on a thread of its own. It ends with the process.
pub struct Shard {
    jobs: flume::Sender<Job>,
}

impl Shard {
    /// Starts it.
    ///
    /// # Panics
    /// If this machine cannot run one.
    pub fn start() -> Self {
        let (jobs, queue) = flume::unbounded::<Job>();
        let shards = run_shards(Placement::Anywhere(1), Options::default(), move |runtime, _| {
            let queue = queue.clone();
            async move {
                while let Ok(job) = queue.recv_async().await {
                    job(runtime.clone()).await;
                }
            }
        });
        // It is never joined, and stays watched as long as it runs.
        std::mem::forget(shards.expect("this machine runs shards"));
        Self { jobs }
    }

    /// Runs a job and waits for what it answers.
    ///
    /// # Panics
    /// If the job did.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        job: impl FnOnce(GlommioRuntime) -> F + Send + 'static,
    ) -> T {
        let (answer, answered) = flume::bounded(1);
        let job = move |runtime| -> Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                let output = job(runtime).await;
                answer.send(output).expect("whoever asked waits");
            })
        };
        self.jobs.send(Box::new(job)).expect("the shard runs as long as the process");
        answered.recv().expect("the job ends with an answer")
    }
}
