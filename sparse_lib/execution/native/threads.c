/* A pool of threads. TensorFlow's own cannot be reached through its C API.

   A call puts its job into a list, works on it itself, and leaves when the last task has ended. Workers take tasks from
   the first job that has any left, so several operations may run at once. */
#include "engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/* How often a thread looks for work before it sleeps: about 20 us. Waking it would cost as much as a small product. */
enum { MOST_THREADS = 256, LOOKS = 400 };

typedef struct Job {
  Task task;
  void *argument;
  int64_t count;
  int64_t next;   /* first task that nobody has taken */
  int64_t unfinished;
  struct Job *following;
} Job;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static Job *jobs;
static int workers;
static atomic_int wanted = 1;
static atomic_uint calls; /* changes with every job that is put into the list */

int count_threads(void) { return atomic_load(&wanted); }

/* Called from Python. */
__attribute__((visibility("default"))) void sparse_set_threads(int count) {
  atomic_store(&wanted, count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count);
}

static void pause_shortly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Runs one task of `job` with the mutex released meanwhile. */
static void run_one(Job *job) {
  int64_t index = job->next++;
  pthread_mutex_unlock(&mutex);
  job->task(job->argument, index);
  pthread_mutex_lock(&mutex);
  if (__atomic_sub_fetch(&job->unfinished, 1, __ATOMIC_RELEASE) == 0) pthread_cond_broadcast(&finished);
}

static void *serve(void *argument) {
  int number = (int)(intptr_t)argument, looks = 0;
  pthread_mutex_lock(&mutex);
  for (;;) {
    Job *job = jobs;
    while (job && job->next == job->count) job = job->following;
    if (job && number < atomic_load(&wanted)) {
      run_one(job);
      looks = LOOKS;
    } else if (looks > 0) {
      unsigned seen = atomic_load(&calls);
      pthread_mutex_unlock(&mutex);
      while (looks-- > 0 && atomic_load(&calls) == seen) pause_shortly();
      pthread_mutex_lock(&mutex);
    } else {
      pthread_cond_wait(&work, &mutex);
    }
  }
  return NULL;
}

/* With the mutex held. Fewer workers than wanted are no error: the caller does what is left. */
static void start_workers(int count) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's threads */
  pthread_t thread;
  while (workers < count && !pthread_create(&thread, &attributes, serve, (void *)(intptr_t)(workers + 1))) workers++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

void run_tasks(Task task, void *argument, int64_t count) {
  if (count_threads() == 1 || count < 2) {
    for (int64_t index = 0; index < count; index++) task(argument, index);
    return;
  }
  Job job = {task, argument, count, 0, count, NULL};
  pthread_mutex_lock(&mutex);
  start_workers(count_threads() - 1);
  Job **end = &jobs;
  while (*end) end = &(*end)->following;
  *end = &job;
  atomic_fetch_add(&calls, 1);
  pthread_cond_broadcast(&work);
  while (job.next < job.count) run_one(&job);
  pthread_mutex_unlock(&mutex);
  for (int looks = LOOKS; looks > 0 && __atomic_load_n(&job.unfinished, __ATOMIC_ACQUIRE); looks--) pause_shortly();
  pthread_mutex_lock(&mutex);
  while (job.unfinished) pthread_cond_wait(&finished, &mutex);
  for (end = &jobs; *end != &job;) end = &(*end)->following;
  *end = job.following;
  pthread_mutex_unlock(&mutex);
}

/* Only the forking thread lives on in the child. */
static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }
static void begin_child(void) {
  jobs = NULL;
  workers = 0;
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&work, NULL);
  pthread_cond_init(&finished, NULL);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(lock, unlock, begin_child); }
