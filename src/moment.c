/*-------------------------------------------------------------------------
 *
 * moment.c
 *		Dates and times as people write them into pages.
 *
 * Pure.  What comes out is a moment that exists, between the years 1 and
 * 9999, so that it can be handed to timestamptz without fear.
 *
 *-------------------------------------------------------------------------
 */
#include "moment.h"

#include <stdio.h>
#include <string.h>

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Exactly n digits at s, as a number; -1: they are not there */
static int
digits(const char *s, int n)
{
	int			value = 0;

	for (int i = 0; i < n; i++)
	{
		if (!is_digit(s[i]))
			return -1;
		value = value * 10 + (s[i] - '0');
	}
	return value;
}

static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/* The date at s, if there is one; returns what is behind it. */
static const char *
read_date(Moment *moment, const char *s)
{
	int			year = digits(s, 4);
	int			month;
	int			day;

	if (year < 1 || s[4] != '-')
		return s;
	if ((day = digits(s + 5, 3)) >= 1 && !is_digit(s[8]))
	{
		/* Of the year: 2035-172 */
		for (month = 1; month <= 12 && day > days_in_month(year, month); month++)
			day -= days_in_month(year, month);
		s += 8;
	}
	else
	{
		month = digits(s + 5, 2);
		day = month >= 0 && s[7] == '-' ? digits(s + 8, 2) : -1;
		if (day < 0)
			return s;
		s += 10;
	}
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return s;
	if (!moment->has_date)
	{
		moment->has_date = true;
		moment->year = year;
		moment->month = month;
		moment->day = day;
	}
	return s;
}

/* am, p.m. and the like, behind a blank or not */
static const char *
read_half(const char *s, int *hour)
{
	const char *p = s + strspn(s, " ");
	char		half = *p;

	if (half == '\0' || !strchr("aApP", half))
		return s;
	p++;
	if (*p == '.')
		p++;
	if (*p != 'm' && *p != 'M')
		return s;
	p++;
	if (*p == '.')
		p++;
	if (*hour >= 1 && *hour <= 12)
		*hour = *hour % 12 + (strchr("pP", half) ? 12 : 0);
	return p;
}

static const char *
read_fraction(const char *s, char *fraction, size_t size)
{
	size_t		n = 0;

	fraction[n++] = '.';
	for (s++; is_digit(*s); s++)
		if (n + 1 < size)
			fraction[n++] = *s;
	fraction[n] = '\0';
	return s;
}

static const char *
read_time(Moment *moment, const char *s)
{
	const char *begin = s;
	Moment		t = {0};

	t.hour = is_digit(s[0]) && is_digit(s[1]) ? digits(s, 2) : digits(s, 1);
	if (t.hour < 0)
		return begin;
	s += is_digit(s[1]) ? 2 : 1;
	if (*s == ':' && (t.minute = digits(s + 1, 2)) >= 0)
	{
		s += 3;
		if (*s == ':' && (t.second = digits(s + 1, 2)) >= 0)
		{
			s += 3;
			if (*s == '.' && is_digit(s[1]))
				s = read_fraction(s, t.fraction, sizeof(t.fraction));
		}
		s = read_half(s, &t.hour);
	}
	else
	{
		const char *half = read_half(s, &t.hour);

		if (half == s)
			return begin;		/* a number is no time */
		s = half;
		t.minute = 0;
	}
	if (t.hour > 23 || t.minute < 0 || t.minute > 59 || t.second < 0 ||
		t.second > 59)
		return begin;
	if (!moment->has_time)
	{
		moment->has_time = true;
		moment->hour = t.hour;
		moment->minute = t.minute;
		moment->second = t.second;
		memcpy(moment->fraction, t.fraction, sizeof(t.fraction));
	}
	return s;
}

static void
read_zone(Moment *moment, const char *s)
{
	int			sign = *s == '-' ? -1 : 1;
	int			hours;
	int			minutes = 0;

	if (moment->has_zone)
		return;
	if (*s == 'Z' || *s == 'z')
	{
		moment->has_zone = s[1] == '\0';
		return;
	}
	if (*s != '+' && *s != '-')
		return;
	s++;
	hours = is_digit(s[0]) && is_digit(s[1]) ? digits(s, 2) : digits(s, 1);
	if (hours < 0)
		return;
	s += is_digit(s[1]) ? 2 : 1;
	if (*s == ':')
		s++;
	if (*s != '\0')
		minutes = digits(s, 2);
	if (minutes < 0 || (*s != '\0' && s[2] != '\0') || hours > 14 ||
		minutes > 59)
		return;
	moment->has_zone = true;
	moment->zone = sign * (hours * 60 + minutes);
}

void
moment_add(Moment *moment, const char *text)
{
	const char *s = read_date(moment, text);

	if (s != text && (*s == 'T' || *s == 't'))
		s++;
	s += strspn(s, " ");
	s = read_time(moment, s);
	s += strspn(s, " ");
	read_zone(moment, s);
}

char *
moment_text(Arena *arena, const Moment *moment)
{
	char		text[64];
	int			zone = moment->has_zone ? moment->zone : 0;
	int			east = zone < 0 ? -zone : zone;

	if (!moment->has_date)
		return NULL;
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d%s%c%02d:%02d",
			 moment->year, moment->month, moment->day, moment->hour,
			 moment->minute, moment->second, moment->fraction,
			 zone < 0 ? '-' : '+', east / 60, east % 60);
	return arena_copy(arena, text, strlen(text));
}
