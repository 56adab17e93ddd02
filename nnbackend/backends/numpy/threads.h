/* Threads that share the work of a loop.

   The first loop that is long enough starts as many as `use_threads` has said. Between two loops a thread spins for SPIN
   nanoseconds, because to wake a processor takes longer than some loops, and sleeps after that. While it spins it lets
   others have its processor: of two or four processes on two processors, each took up to twice as long without. Two
   loops at a time do not share them: the second has one thread. A child process after a fork starts its own. */

enum { MOST_THREADS = 8, SPIN = 2000000 };

/* Most loops take numbers below the smallest normal one for 0. Some processors take a hundred times as long for them,
   and the running means of Adam and of momentum get there, and stay, for weights that no longer have a gradient. */
#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned Modes;
enum { TINY_IS_ZERO = 1 << 15 | 1 << 6 }; /* as a result, as an operand */
#define MODES _mm_getcsr()
#define SET_MODES(modes) _mm_setcsr(modes)
#elif defined(__aarch64__) && defined(__GNUC__)
typedef uint64_t Modes;
enum { TINY_IS_ZERO = 1 << 24 };
static inline Modes floating_point_modes(void)
{
    Modes modes;
    __asm__ volatile("mrs %0, fpcr" : "=r"(modes) : : "memory");
    return modes;
}
#define MODES floating_point_modes()
#define SET_MODES(modes) __asm__ volatile("msr fpcr, %0" : : "r"(modes) : "memory")
#else
typedef int Modes;
enum { TINY_IS_ZERO = 0 };
#define MODES 0
#define SET_MODES(modes) (void)(modes)
#endif

static inline void set_modes(Modes modes)
{
    SET_MODES(modes);
}

/* Return the modes of before. */
static inline Modes take_tiny_for_zero(void)
{
    const Modes before = MODES;
    set_modes(before | TINY_IS_ZERO);
    return before;
}

typedef void Work(const void *job, Py_ssize_t first, Py_ssize_t stop);

#if defined(_WIN32) || !defined(__GNUC__)

static void use_threads(long count)
{
    (void)count;
}

static void prepare_for_forks(void)
{
}

static void raise_flag(int *flag)
{
    *flag = 1;
}

static int threads_wanted(void)
{
    return 1;
}

/* Do the work for 0 to count, in as many threads as have `least` of it to do. */
static void share_out(Work *work, const void *job, Py_ssize_t count, Py_ssize_t least)
{
    (void)least;
    work(job, 0, count);
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

typedef struct {
    Work *work; /* NULL ends the thread */
    const void *job;
    Py_ssize_t first, stop;
    Modes modes; /* of the thread that calls */
} Share;

static struct {
    pthread_t threads[MOST_THREADS];
    Share shares[MOST_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t begun;
    int wanted;     /* how many threads share a loop, the one that calls it among them */
    int count;      /* how many there are beside that one */
    int taken;      /* whether a loop has them */
    int unfinished; /* threads that have not done their share of this turn */
    unsigned turn;  /* goes up when new shares are there */
} team = {.lock = PTHREAD_MUTEX_INITIALIZER, .begun = PTHREAD_COND_INITIALIZER, .wanted = 1};

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int has_begun(unsigned seen)
{
    return __atomic_load_n(&team.turn, __ATOMIC_ACQUIRE) != seen;
}

static void *member(void *given)
{
    const Share *share = given;
    for (unsigned seen = 0;; seen++) {
        for (const int64_t end = nanoseconds() + SPIN; !has_begun(seen) && nanoseconds() < end; sched_yield())
            for (int i = 0; i < 64 && !has_begun(seen); i++)
                pause_briefly();
        if (!has_begun(seen)) {
            pthread_mutex_lock(&team.lock);
            while (!has_begun(seen))
                pthread_cond_wait(&team.begun, &team.lock);
            pthread_mutex_unlock(&team.lock);
        }
        if (!share->work)
            return NULL;
        set_modes(share->modes);
        if (share->first < share->stop)
            share->work(share->job, share->first, share->stop);
        __atomic_sub_fetch(&team.unfinished, 1, __ATOMIC_RELEASE);
    }
}

/* Let all threads do their shares. */
static void begin(void)
{
    __atomic_store_n(&team.unfinished, team.count, __ATOMIC_RELAXED);
    if (team.count == 0)
        return;
    pthread_mutex_lock(&team.lock);
    __atomic_add_fetch(&team.turn, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&team.begun);
    pthread_mutex_unlock(&team.lock);
}

static int take_threads(void)
{
    return !__atomic_exchange_n(&team.taken, 1, __ATOMIC_ACQUIRE);
}

static void release_threads(void)
{
    __atomic_store_n(&team.taken, 0, __ATOMIC_RELEASE);
}

/* In place of the threads that there are, have `count` of them, or as many as can be started. The team is taken. */
static void start_threads(int count)
{
    for (int i = 0; i < team.count; i++)
        team.shares[i].work = NULL;
    begin();
    while (team.count > 0)
        pthread_join(team.threads[--team.count], NULL);
    team.turn = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of Python */
    while (team.count < count && !pthread_create(&team.threads[team.count], NULL, member, &team.shares[team.count]))
        team.count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* From now on let at most `most` threads share a loop. */
static void use_threads(long most)
{
    const int count = most < 1 ? 1 : most > MOST_THREADS ? MOST_THREADS : (int)most;
    __atomic_store_n(&team.wanted, count, __ATOMIC_RELAXED);
    while (!take_threads())
        sched_yield();
    if (team.count >= count)
        start_threads(count - 1);
    release_threads();
}

/* In a child process there is no thread but the one that forked; what describes the others may be from the middle of a
   loop. */
static void forget_threads(void)
{
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.begun, NULL);
    team.count = team.taken = 0;
}

static void prepare_for_forks(void)
{
    pthread_atfork(NULL, NULL, forget_threads);
}

/* From any of the threads. */
static void raise_flag(int *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
}

static int threads_wanted(void)
{
    return __atomic_load_n(&team.wanted, __ATOMIC_RELAXED);
}

/* Do the work for 0 to count, in as many threads as have `least` of it to do. */
static void share_out(Work *work, const void *job, Py_ssize_t count, Py_ssize_t least)
{
    Py_ssize_t parts = least > 0 ? count / least : count, first = 0;
    if (parts <= 1 || threads_wanted() <= 1 || !take_threads()) {
        work(job, 0, count);
        return;
    }
    const int wanted = threads_wanted(); /* `use_threads` says it before it takes the team */
    if (team.count < wanted - 1) {
        start_threads(wanted - 1);
        if (team.count < wanted - 1) /* there will be no more later */
            __atomic_store_n(&team.wanted, team.count + 1, __ATOMIC_RELAXED);
    }
    const Modes modes = MODES;
    parts = parts > team.count + 1 ? team.count + 1 : parts;
    for (int i = 0; i < team.count; i++) {
        const Py_ssize_t stop = i < parts - 1 ? first + (count - first) / (parts - i) : first;
        team.shares[i] = (Share){work, job, first, stop, modes};
        first = stop;
    }
    begin();
    work(job, first, count);
    for (int spins = 0; __atomic_load_n(&team.unfinished, __ATOMIC_ACQUIRE) > 0; spins++)
        if (spins < 1000)
            pause_briefly();
        else
            sched_yield(); /* there may be fewer processors than threads */
    release_threads();
}

#endif
