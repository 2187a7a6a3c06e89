/*-------------------------------------------------------------------------
 *
 * clock.c
 *		A wall clock of the test's, for the processes it is preloaded into.
 *
 * The file that RS_CLOCK names holds an int64: how many seconds the clock is
 * ahead.  It is mapped, so a clock set in the middle of something is set for
 * every process at once.  The monotonic clock goes on, as it does when a
 * machine's clock is set.
 *
 *		cc -shared -fPIC -o clock.so clock.c; RS_CLOCK=file LD_PRELOAD=clock.so ...
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead = NULL;

__attribute__((constructor))
static void
look_up(void)
{
	const char *name = getenv("RS_CLOCK");
	int			fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	void	   *map;

	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map != MAP_FAILED)
		ahead = map;
}

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	int			result = (int) syscall(SYS_clock_gettime, clock, ts);

	if (result == 0 && ahead && (clock == CLOCK_REALTIME ||
								 clock == CLOCK_REALTIME_COARSE))
		ts->tv_sec += *ahead;
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;
	int			result = clock_gettime(CLOCK_REALTIME, &ts);

	(void) zone;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return result;
}

time_t
time(time_t *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}
